"""Nobody reads an answer any more, so its model is asked for nothing more: an author writes an ordinary generator over
an ordinary connection, and whoever leaves or stops closes that connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from asynchronous import asynchronous, soon
from commander_process import running_commander
from dispatcher_process import DispatcherProcess
from openai_viewer import chatting, said
from web_viewer import asking, browsing

DISPATCHER_FLAGS = ("--http-address", "127.0.0.1:0", "--http-left-stop-s", "0.1")

AGENTS = '''
import asyncio

from commander import Turn, agent


@agent
async def talker(turn: Turn):
    """Says what the model at the address that it is told says."""
    host, _, port = turn.text.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while text := await reader.read(100):
            yield text.decode()
    finally:
        writer.close()
'''


class Model:
    """Says a word to whoever connects, and would say more as long as somebody reads."""

    def __init__(self) -> None:
        self.address = ""
        self._asked, self._left = asyncio.Event(), asyncio.Event()

    async def asked(self) -> None:
        await soon(self._asked.wait())

    async def left(self) -> None:
        """Until its reader has closed the connection."""
        await soon(self._left.wait())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"word ")
        self._asked.set()
        # Nothing is asked of it: this returns when the other side has closed.
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        self._left.set()


@asynccontextmanager
async def _model() -> AsyncIterator[Model]:
    model = Model()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    model.address = f"{host}:{port}"
    async with server:
        yield model


@pytest.fixture(scope="module")
def talker(dispatcher: DispatcherProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agents")
    (folder / "talking_agents.py").write_text(AGENTS)
    with running_commander(folder, "talking_agents", "--dispatcher", dispatcher.address) as commander:
        commander.wait_for("linked to")
        yield "talker"


@asynchronous
async def test_a_client_that_closes_its_stream_closes_the_models(
    dispatcher: DispatcherProcess, talker: str
) -> None:
    async with _model() as model, browsing(dispatcher.url) as client:
        async with chatting(client, talker, messages=said(model.address)) as stream:
            await stream.until_text()
        await model.left()
        state = (await client.get(f"/v1/sessions/{stream.session_id}")).json()
    assert state["ended"]["name"] == "detached"


@asynchronous
async def test_a_client_that_waits_for_the_whole_and_leaves_closes_the_models(
    dispatcher: DispatcherProcess, talker: str
) -> None:
    async with _model() as model, browsing(dispatcher.url) as client:
        body = {"model": talker, "messages": said(model.address)}
        asked = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
        await model.asked()
        asked.cancel()
        await model.left()


@asynchronous
async def test_a_stop_closes_the_models_connection(dispatcher: DispatcherProcess, talker: str) -> None:
    async with (
        _model() as model,
        browsing(dispatcher.url) as client,
        asking(client, talker, text=model.address) as stream,
    ):
        await stream.until("content")
        session_id = stream.seen[0].record["session_id"]
        assert (await client.post(f"/v1/sessions/{session_id}/stop", json={})).status_code == 200
        await model.left()
        assert (await stream.rest())[-1].event == "ended"
