"""A real MCP server, by the protocol's own SDK: `python mcp_box.py` speaks over stdio.

With --http it speaks over streamable HTTP, and prints its port. With --state FILE its tools note there what happens to
them.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import uvicorn
from mcp.server import MCPServer, Server
from mcp.server.mcpserver import Context
from mcp.server.stdio import stdio_server
from mcp_types import ListToolsResult, Tool

server = MCPServer("box")
arguments = argparse.ArgumentParser()
arguments.add_argument("--http", action="store_true")
arguments.add_argument("--port", type=int, default=0)
arguments.add_argument("--state", type=Path, default=Path(os.devnull))
arguments.add_argument(
    "--noise", action="store_true", help="write what is no protocol to both outputs, first"
)
arguments.add_argument("--stubborn", action="store_true", help="start a child, and end by SIGKILL alone")
arguments.add_argument("--odd", action="store_true", help="offer tools that nobody can be offered")
told = arguments.parse_args()


def note(text: str) -> None:
    with told.state.open("a") as file:
        file.write(text + "\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool(structured_output=False)
def greet(name: str) -> str:
    """Says hello."""
    return f"Hello, {name}!"


@server.tool()
def refuse() -> str:
    """Fails."""
    raise ValueError("never")


@server.tool(structured_output=False)
def long(chars: int) -> str:
    """Answers at length."""
    return "x" * chars


@server.tool(structured_output=False)
async def hang() -> str:
    """Never answers."""
    note("begun")
    try:
        await asyncio.Event().wait()
    finally:
        note("cancelled")
    return ""


@server.tool(structured_output=False)
async def who(context: Context) -> str:
    """The key that came with the call, and a variable of the environment."""
    meta = cast("dict[str, str]", context.request_context.meta or {})
    return f"{meta['chatstream/idempotency_key']} {os.environ.get('BOX_SECRET')} {os.environ.get('NOT_TOLD')}"


@server.tool(structured_output=False)
async def count(to: int, context: Context) -> str:
    """Counts, and says how far it is."""
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"number {number}")
    return "counted"


@server.tool(structured_output=False)
def die() -> str:
    """Ends the server, at once."""
    os._exit(3)


@server.tool(structured_output=False)
async def grow(context: Context) -> str:
    """Has one tool more from now on."""
    server.add_tool(lambda: "here", name="grown", structured_output=False)
    await context.notify_tools_changed()
    return "grown"


async def odd_tools(*_: object) -> ListToolsResult:
    """One that is fine, and three that nobody can be offered."""
    remote: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}},
    }
    schemas: dict[str, dict[str, object]] = {
        "fine": {"type": "object"},
        "bad_schema": {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        "remote_schema": remote,
        "bad name": {"type": "object"},
    }
    return ListToolsResult(tools=[Tool(name=name, input_schema=schema) for name, schema in schemas.items()])


async def serve_odd() -> None:
    odd: Server[Any] = Server("odd", on_list_tools=odd_tools)
    async with stdio_server() as (received, sent):
        await odd.run(received, sent, odd.create_initialization_options())


def serve_http() -> None:
    listener = socket.create_server(("127.0.0.1", told.port))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def be_stubborn() -> None:
    import signal  # noqa: PLC0415 - only here

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
    note(f"{os.getpid()} {child.pid}")


if __name__ == "__main__":
    if told.noise:
        os.write(1, b"Welcome to the box!\n{not json\n" + b"y" * 200_000 + b"\n")
        os.write(2, b"\x1b[31mred\n" * 1_000)
    if told.stubborn:
        be_stubborn()
    if told.odd:
        asyncio.run(serve_odd())
    elif told.http:
        serve_http()
    else:
        server.run("stdio")
        while told.stubborn:
            asyncio.run(asyncio.sleep(60))
