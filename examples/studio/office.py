"""An MCP server with two tools. The dispatcher starts it, by the table [mcp.office] of its settings."""

from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

SALES = [310, 290, 350, 420, 400, 460]

server = MCPServer("office")
published: list[str] = []


@server.tool()
def sales(months: Annotated[int, Field(ge=1, le=len(SALES))]) -> dict[str, list[int]]:
    """Cups of tea sold in each of the last months, the latest last."""
    return {"cups": SALES[-months:]}


@server.tool()
def publish(text: str) -> dict[str, int]:
    """Publishes an announcement, for everybody to read."""
    published.append(text)
    return {"number": len(published)}


if __name__ == "__main__":
    server.run("stdio")
