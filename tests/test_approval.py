"""Calls that somebody has to allow first: asked of whoever watches, run once, or not at all."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous
from chat_viewer import Conversation, conversing
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.answers import misfit

TOOLS = '''
from pathlib import Path

RUNS = Path(__file__).with_name("runs")

def pay(to: str, euros: int) -> str:
    """Pays somebody."""
    with RUNS.open("a") as file:
        file.write(f"{to}:{euros}\\n")
    return f"paid {euros} to {to}"

def look(at: str) -> str:
    """Looks."""
    return f"seen {at}"

TOOLS = [pay, look]
'''
RULES = "[tool.pay]\nask = true\n"
ASK = '{"to": "ada", "euros": 5}'


class Shop:
    """A dispatcher whose tool `pay` has to be allowed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "shop.py").write_text(TOOLS)
        (place / "dispatcher.toml").write_text(RULES)
        self.flags = ["--config", str(place / "dispatcher.toml"), "--tools", "shop:TOOLS"]

    def opened(self, *flags: str) -> Any:
        return running_dispatcher(*self.flags, *flags, environ={"PYTHONPATH": str(self.place)})

    @property
    def paid(self) -> list[str]:
        path = self.place / "runs"
        return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def opened(shop: Shop) -> Iterator[DispatcherProcess]:
    with shop.opened() as dispatcher:
        yield dispatcher


@pytest.fixture
def newly_paid(shop: Shop) -> Callable[[], list[str]]:
    before = len(shop.paid)
    return lambda: shop.paid[before:]


async def answered(talk: Conversation, question_id: str, value: object) -> chat_pb2.Receipt:
    answer = chat_pb2.AnswerQuestion(question_id=question_id, value_json=json.dumps(value))
    return await talk.request("1", answer=answer)


@asynchronous
async def test_a_call_runs_once_it_is_allowed(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]]
) -> None:
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", ASK, call_id="c1")
        asked = (await seen.until("question")).question
        assert (asked.question_id, asked.approves_call_id) == ("approve-c1", "c1")
        assert asked.text == f"May pay run with {ASK}?"
        assert list(asked.options) == ["approve", "deny"]
        # Others need not wait.
        await turn.call("look", '{"at": "me"}', call_id="c2")
        assert (await turn.result()).call_id == "c2"
        # The same call once more asks nobody.
        await turn.call("pay", ASK, call_id="c1")
        assert newly_paid() == []
        assert not (await answered(talk, "approve-c1", "approve")).HasField("error")
        result = await turn.result()
        assert json.loads(result.result_json) == "paid 5 to ada"
        assert newly_paid() == ["ada:5"]
        assert not (await answered(talk, "approve-c1", "approve")).HasField("error"), "a repeat"
        await turn.finish()
        await seen.ended()
        assert turn.heard_nothing("answer"), "the agent has asked nothing"
    assert newly_paid() == ["ada:5"]
    assert seen.kinds.count("question") == seen.kinds.count("answer") == 1


@asynchronous
async def test_it_may_be_allowed_with_other_arguments(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]]
) -> None:
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", ASK, call_id="c1")
        await seen.until("question")
        for wrong, why in (
            ({"approve": {"to": "ada", "euros": "five"}}, "euros"),
            ({"approve": {"to": "ada"}}, "euros"),
            ({"approve": 5}, '{"approve": {…}}'),
            ({"approve": {}, "deny": "no"}, '{"approve": {…}}'),
            ("perhaps", '"approve", "deny"'),
        ):
            refused = await answered(talk, "approve-c1", wrong)
            assert refused.error.code == "invalid_request"
            assert why in refused.error.message
        await answered(talk, "approve-c1", {"approve": {"to": "ada", "euros": 3}})
        assert json.loads((await turn.result()).result_json) == "paid 3 to ada"
        # It is still the call that was asked, so a repeat of it is one.
        await turn.call("pay", ASK, call_id="c1")
        assert json.loads((await turn.result()).result_json) == "paid 3 to ada"
        await turn.finish()
        await seen.ended()
    assert newly_paid() == ["ada:3"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("deny", "the user did not allow it"),
        ({"deny": "too dear"}, "the user did not allow it: too dear"),
        (None, "the user did not allow it"),
    ],
)
@asynchronous
async def test_what_is_denied_does_not_run(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]], answer: object, message: str
) -> None:
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", ASK, call_id="c1")
        await seen.until("question")
        if answer is None:
            declined = chat_pb2.AnswerQuestion(question_id="approve-c1", decline=True)
            await talk.request("1", answer=declined)
        else:
            await answered(talk, "approve-c1", answer)
        result = await turn.result()
        assert (result.error.code, result.error.message) == (agent_pb2.TOOL_ERROR_CODE_DENIED, message)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
    assert newly_paid() == []


@asynchronous
async def test_nobody_is_asked_about_what_can_not_run(opened: DispatcherProcess) -> None:
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", '{"to": "ada"}', call_id="c1")
        assert (await turn.result()).error.code == agent_pb2.TOOL_ERROR_CODE_INVALID_ARGUMENTS
        await turn.finish()
        await seen.ended()
    assert "question" not in seen.kinds


@asynchronous
async def test_a_stop_while_somebody_is_asked_runs_nothing(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]]
) -> None:
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", ASK, call_id="c1")
        await seen.until("question")
        await talk.request("1", stop=chat_pb2.StopAsked())
        await seen.ended()
        assert (await answered(talk, "approve-c1", "approve")).error.code == "session_ended"
    assert newly_paid() == []


@asynchronous
async def test_it_is_not_waited_for_for_ever(shop: Shop, newly_paid: Callable[[], list[str]]) -> None:
    config = shop.place / "soon.toml"
    config.write_text(RULES + "ask_s = 0.1\n")
    name = unique("agent")
    with shop.opened("--config", str(config)) as dispatcher:
        async with linked(dispatcher.address, name) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(name)
            turn = await link.started()
            await turn.call("pay", ASK)
            result = await turn.result()
            assert result.error.code == agent_pb2.TOOL_ERROR_CODE_DENIED
            assert result.error.message == "nobody has allowed it in time"
            assert dispatcher.scrape()['dispatcher_approvals_total{outcome="expired"}'] == 1
            await turn.finish()
            await seen.ended()
    assert newly_paid() == []


@asynchronous
async def test_it_is_waited_for_no_longer_than_by_its_caller(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]]
) -> None:
    """What came later would run for nobody, and beside the call that is made instead."""
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("pay", ASK, call_id="c1", timeout_ms=100)
        assert (await turn.result()).error.message == "nobody has allowed it in time"
        assert (await answered(talk, "approve-c1", "approve")).error.code == "no_such_question"
        await turn.finish()
        await seen.ended()
    assert newly_paid() == []


@asynchronous
async def test_it_is_still_asked_after_kill_9(shop: Shop, newly_paid: Callable[[], list[str]]) -> None:
    name = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    journal = ("--journal", f"sqlite:{shop.place / 'journal'}")
    with shop.opened(*journal) as first:
        async with linked(first.address, name, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(name)
            turn = await link.started()
            await turn.call("pay", ASK, call_id="c1")
            await seen.until("question")
            first.signal(signal.SIGKILL)
            first.wait()
    resume = agent_pb2.Resume(session_id=turn.session_id, attempt=1, last_sequence_sent=turn.sequence)
    with shop.opened(*journal) as second:
        async with (
            linked(second.address, name, **me, resumes=[resume]) as link,
            conversing(second.address) as talk,
        ):
            answer = chat_pb2.AnswerQuestion(question_id="approve-c1", value_json='"approve"')
            await talk.send(chat_pb2.ClientPacket(session_id=turn.session_id, answer=answer))
            assert not (await talk.receipt()).HasField("error")
            result = (await link.heard("tool_result", turn.session_id)).tool_result
            assert json.loads(result.result_json) == "paid 5 to ada"
    assert newly_paid() == ["ada:5"]


@asynchronous
async def test_a_lost_attempt_s_call_is_not_run(
    opened: DispatcherProcess, newly_paid: Callable[[], list[str]]
) -> None:
    name = unique("agent")
    async with conversing(opened.address) as talk:
        async with linked(opened.address, name) as first:
            seen = await talk.ask(name)
            turn = await first.started()
            await turn.call("pay", ASK, call_id="c1")
            await seen.until("question")
            await first.leave("upgrade")
        assert (await seen.until("answer")).answer.cancelled.why == "commander_lost"
        late = await answered(talk, "approve-c1", "approve")
        assert late.error.code == "no_such_question"
        async with linked(opened.address, name) as second:
            again = await second.started()
            await again.call("pay", ASK, call_id="c1")
            await seen.until("question", 2)
            assert not (await answered(talk, "approve-2.c1", "approve")).HasField("error")
            await again.result()
            await again.finish()
            await seen.ended()
    assert newly_paid() == ["ada:5"]


def test_other_arguments_are_held_against_the_schema_of_the_tool() -> None:
    question = agent_pb2.Question(
        question_id="q",
        options=["approve", "deny"],
        response_schema_json='{"type": "object", "required": ["a"]}',
        approves_call_id="c1",
    )
    assert misfit(question, '"approve"') == misfit(question, '{"approve": {"a": 1}}') == ""
    assert misfit(question, '{"approve": {}}').startswith("approve: ")
    assert misfit(question, '{"deny": "why"}') == ""
    assert "is right" in misfit(question, '{"deny": 1}')
    assert "is none of the options" in misfit(question, '"yes"')
