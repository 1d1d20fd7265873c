"""A stop goes before what waits to be written, and so would overtake the Start of its own session."""

from typing import Any

from asynchronous import asynchronous, soon
from chat_viewer import asking, conversing
from dialling import LINK_METHOD, administering, dialled
from dispatcher_process import DispatcherProcess
from scripted_commander import Down, Up, hello, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2

# More than a connection takes while its reader does not read, and less than a request may have.
LONG = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(text="x" * 400_000)])


@asynchronous
async def test_what_is_stopped_before_it_was_started_is_not_started(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
        dialled(dispatcher.address) as channel,
    ):
        call: Any = channel.stream_stream(LINK_METHOD)()
        await call.write(Up(hello=hello(agent, commander_id=unique("commander"))).SerializeToString())
        assert Down.FromString(await soon(call.read())).HasField("welcome")
        # The first Start holds up the writer; the second one waits behind it.
        first = await talk.request("first", ask=asking(agent, messages=[LONG]))
        second = await talk.request("second", ask=asking(agent, messages=[LONG]))
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=second.session_id))
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=first.session_id))
        said: list[tuple[str, str]] = []
        while ("stop", first.session_id) not in said:
            packet = Down.FromString(await soon(call.read()))
            packets = packet.batch.packets if packet.HasField("batch") else [packet]
            said += [(str(each.WhichOneof("signal")), each.session_id) for each in packets]
        call.cancel()
    assert ("start", first.session_id) in said
    assert ("stop", second.session_id) in said
    assert ("start", second.session_id) not in said
