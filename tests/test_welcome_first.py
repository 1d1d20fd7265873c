"""The contract says that the dispatcher answers Hello with Welcome, alone and first, whatever else waits: a Start
from the queue, what is owed to a session that is resumed, or a stop that came while the link was down."""

from typing import Any

from asynchronous import asynchronous, eventually, soon
from chat_viewer import asking, conversing
from dialling import LINK_METHOD, administering, dialled
from dispatcher_process import DispatcherProcess
from scripted_commander import Down, Up, hello, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2


@asynchronous
async def test_welcome_is_alone_and_first_though_a_start_and_a_stop_wait(
    dispatcher: DispatcherProcess,
) -> None:
    agent, commander_id, instance = unique("agent"), unique("commander"), unique("instance")
    async with conversing(dispatcher.address) as talk, administering(dispatcher.address) as admin:
        async with opened_link(dispatcher.address) as link:
            await link.greet(agent, commander_id=commander_id, instance=instance)
            await talk.request("stopped", ask=asking(agent))
            turn = await link.started()
            await turn.say("a")
            await turn.acknowledged(1)
        request = admin_pb2.ListCommandersRequest()

        async def state() -> str:
            known = await admin.ListCommanders(request)
            return next(each.state for each in known.commanders if each.commander_id == commander_id)

        await eventually(state, lambda seen: seen == "detached")
        # Behind the lost link one session is stopped, and another one queues.
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=turn.session_id))
        await talk.request("queued", ask=asking(agent))

        resume = agent_pb2.Resume(session_id=turn.session_id, attempt=1, last_sequence_sent=1)
        async with dialled(dispatcher.address) as channel:
            call: Any = channel.stream_stream(LINK_METHOD)()
            back = hello(agent, commander_id=commander_id, instance=instance, resumes=[resume])
            await call.write(Up(hello=back).SerializeToString())
            first = Down.FromString(await soon(call.read()))
            assert first.WhichOneof("signal") == "welcome"
            rest = Down.FromString(await soon(call.read()))
            kinds = [each.WhichOneof("signal") for each in rest.batch.packets]
            assert kinds == ["stop", "start"]
            call.cancel()
