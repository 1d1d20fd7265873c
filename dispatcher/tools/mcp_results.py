"""What an MCP server answers, as what a tool returns: structured content as it is, text as text, the rest as parts."""

from mcp_types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from dispatcher.tools.contract import ToolError


def returned(result: CallToolResult) -> object:
    """The value. Raises ToolError with the server's own words where it says that the call failed."""
    if result.is_error:
        raise ToolError(_text(result) or "the server says that it failed, and not why")
    if result.structured_content is not None:
        return result.structured_content
    if all(isinstance(each, TextContent) for each in result.content):
        return _text(result)
    return [_part(each) for each in result.content]


def _text(result: CallToolResult) -> str:
    return "\n".join(each.text for each in result.content if isinstance(each, TextContent))


def _part(
    part: TextContent | ImageContent | AudioContent | ResourceLink | EmbeddedResource,
) -> dict[str, object]:
    match part:
        case TextContent():
            return {"type": "text", "text": part.text}
        case ImageContent() | AudioContent():
            return {"type": part.type, "mime_type": part.mime_type, "base64": part.data}
        case ResourceLink():
            return {"type": "resource_link", "uri": part.uri, "name": part.name, "mime_type": part.mime_type}
        case EmbeddedResource():
            resource = part.resource
            told = {"type": "resource", "uri": resource.uri, "mime_type": resource.mime_type}
            if isinstance(resource, TextResourceContents):
                return {**told, "text": resource.text}
            return {**told, "base64": resource.blob}
