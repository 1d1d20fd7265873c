"""A conversation in pydantic-ai's words: messages, parts, replies of earlier rounds, what tools returned.

Imported with the adaptor, when a model is first used.
"""

from collections.abc import Iterable, Iterator, Sequence

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from commander.conversation import Blob, JsonPart, Message, Part
from commander.models.failures import Trouble
from commander.models.words import Ask, Reply, ToolReturn, Turned


def messages(ask: Ask) -> list[ModelMessage]:
    """All of it, oldest first. Trouble for what can't be handed over, and where there is nothing to answer."""
    made: list[ModelMessage] = []
    parts: list[ModelRequestPart] = [SystemPromptPart(ask.system)] if ask.system else []
    for turned in ask.messages:
        response = _response(turned)
        if response is None:
            parts += _request_parts(turned)
        elif response.parts:
            if parts:
                made.append(ModelRequest(parts))
            parts = []
            made.append(response)
    if parts:
        made.append(ModelRequest(parts))
    if not any(isinstance(each, ModelRequest) and _asks(each) for each in made):
        raise Trouble(
            "model_request_refused", "messages: there is nothing to answer; the user has said nothing"
        )
    return made


def has_address(ask: Ask) -> bool:
    """Whether a part is given by its address alone."""
    parts = (part for turned in ask.messages if isinstance(turned, Message) for part in turned.parts)
    return any(isinstance(part, Blob) and part.uri and not part.data for part in parts)


def _asks(request: ModelRequest) -> bool:
    return any(not isinstance(part, SystemPromptPart) for part in request.parts)


def _response(turned: Turned) -> ModelResponse | None:
    """What the model said; None for what it was told."""
    if isinstance(turned, Reply):
        if isinstance(turned.native, ModelResponse):
            return turned.native
        text = [TextPart(turned.text)] if turned.text else []
        calls = [ToolCallPart(call.name, call.arguments_json, call.call_id) for call in turned.calls]
        return ModelResponse([*text, *calls])
    if isinstance(turned, Message) and turned.role == "assistant":
        text_of = "".join(_text(part) for part in turned.parts)
        return ModelResponse([TextPart(text_of)] if text_of else [])
    return None


def _request_parts(turned: Turned) -> Iterator[ModelRequestPart]:
    match turned:
        case ToolReturn(call, content, failed):
            yield ToolReturnPart(call.name, content, call.call_id, outcome="failed" if failed else "success")
        case Message("system", parts):
            yield SystemPromptPart("".join(map(_text, parts)))
        case Message("tool", parts):
            # Which call it answers is not known any more.
            yield UserPromptPart(f"A tool returned: {''.join(map(_text, parts))}")
        case Message(_, parts) if parts:
            yield UserPromptPart(_content(parts))
        case _:
            return


def _content(parts: Sequence[Part]) -> str | list[UserContent]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return list(_contents(parts))


def _contents(parts: Iterable[Part]) -> Iterator[UserContent]:
    for part in parts:
        match part:
            case Blob(mime_type, data) if data:
                yield BinaryContent(data, media_type=mime_type or "application/octet-stream")
            case Blob(mime_type, _, uri) if uri:
                yield _by_address(mime_type, uri)
            case Blob(mime_type):
                raise Trouble(
                    "model_input_refused", f"a part of type {mime_type!r} is empty: neither bytes nor address"
                )
            case _:
                yield _text(part)


def _by_address(mime_type: str, uri: str) -> ImageUrl:
    """An address goes to the provider, which fetches it: this commander opens none that a user names."""
    if mime_type.startswith("image/") and uri.startswith(("https://", "http://")):
        return ImageUrl(uri, media_type=None if mime_type.endswith("/*") else mime_type)
    raise Trouble(
        "model_input_refused",
        f"a part of type {mime_type!r} is given by its address, which only images may be, by http:// or https://;"
        " send its bytes",
    )


def _text(part: Part) -> str:
    match part:
        case str():
            return part
        case JsonPart(json):
            return json
        case Blob(mime_type):
            return f"[{mime_type}]"
