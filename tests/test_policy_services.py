"""Services that judge what is said, real ones, beside a real dispatcher: what they are asked, what becomes of what they
say, and of what they don't."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from asynchronous import asynchronous, eventually, soon
from certificates import certify, needs_openssl
from chat_viewer import asking, conversing, viewing
from dialling import chatting
from dispatcher_process import DispatcherProcess, running_dispatcher, serve_and_fail
from judge_service import JudgeService, judging, put, table
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2, policy_pb2
from web_viewer import browsing
from websockets.asyncio.client import connect

TOOLS = '''
from dispatcher.tools import tool

@tool
def tell(what: str) -> str:
    """Tells it."""
    return what

@tool
def leak() -> str:
    """Tells what it should not."""
    return "for" + "bidden"

TOOLS = [tell, leak]
'''
# Nobody listens there, and nobody can: a port that is reserved.
NOBODY = "127.0.0.1:1"
EVERYTHING = ["content", "thoughts", "tool_calls", "tool_results", "questions", "user"]


class Scene(NamedTuple):
    judge: JudgeService
    dispatcher: DispatcherProcess


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One dispatcher for all that only differ in the agent they ask."""
    place = tmp_path_factory.mktemp("judged")
    (place / "telling.py").write_text(TOOLS)
    with judging() as judge:
        rules = (
            table("judge", judge.address, on=EVERYTHING, hold_chars=8, gather_s=0.01, deadline_s=30.0)
            + table("shut", NOBODY, agents=["shut"], failures_max=0)
            + table("open", NOBODY, agents=["open"], on_failure="pass", failures_max=0)
            + table("late", judge.address, agents=["late"], deadline_s=0.2, failures_max=0)
            + '[rule.word]\nliterals = ["hush"]\naction = "stop"\non = ["any"]\n'
            + '[rule.name]\nliterals = ["Ada"]\naction = "redact"\non = ["any"]\nmark = "[name]"\n'
        )
        path = put(place / "policies.toml", rules)
        flags = ("--policy-file", str(path), "--log-format", "json", "--tools", "telling:TOOLS")
        with running_dispatcher(*flags, cwd=place) as dispatcher:
            yield Scene(judge, dispatcher)


async def asked(judge: JudgeService, turn: Turn, word: str) -> None:
    """Waits until it is asked about this word of the session."""
    session_id = turn.session_id
    await asyncio.to_thread(
        judge.wait_asked, lambda each: each.session_id == session_id and word in each.text
    )


# --- what is said ------------------------------------------------------------------------------------------


@asynchronous
async def test_a_match_is_never_shown_however_it_is_cut(scene: Scene) -> None:
    agent = unique("agent")
    async with (
        linked(scene.dispatcher.address, agent) as link,
        conversing(scene.dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        for letter in "the pin is 1234, and there is more to tell":
            await turn.say(letter)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "the pin is [pin], and there is more to tell"


@asynchronous
async def test_what_is_stopped_was_seen_by_nobody_and_its_agent_is_told(scene: Scene) -> None:
    agent = unique("agent")
    async with (
        linked(scene.dispatcher.address, agent) as link,
        conversing(scene.dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        for piece in ("this is a se", "cr", "et"):
            await turn.say(piece)
        ended = await seen.ended()
        assert ended.name == "policy_blocked"
        assert ended.message == (
            "policy_service: service 'judge' judges the content of the agent: a secret word"
        )
        assert "se" not in seen.text.removeprefix("this is a ")
        stop = await turn.stopped()
        assert (stop.code, stop.policy) == (agent_pb2.STOP_CODE_POLICY_VIOLATION, "policy_service")


@asynchronous
async def test_thoughts_are_judged_and_keep_their_steps(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent, include_thoughts=True)
        turn = await link.started()
        await turn.think("one", "the first step of two, ")
        await turn.think("two", "and the pin 1234")
        await turn.finish()
        await seen.ended()
        told: dict[str, str] = {}
        for event in seen.of("thought"):
            step = event.thought.step_name
            told[step] = told.get(step, "") + event.thought.delta
        assert told == {"one": "the first step of two, ", "two": "and the pin [pin]"}


@asynchronous
async def test_a_question_is_asked_with_all_that_the_answer_may_depend_on(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent, "good day", user_id="ada", labels={"team": "red"})
        turn = await link.started()
        await turn.say("hello there, Ada ", agent="team/one")
        await seen.until("content")
        await turn.say("and good night", agent="team/one")
        await turn.finish()
        await seen.ended()
        first, *_, last = [
            each for each in scene.judge.of(turn.session_id) if each.kind == policy_pb2.TEXT_KIND_CONTENT
        ]
        # Rules of the file were there first: the service is told marks.
        assert first.text == "hello there, [name] "
        assert (first.policy, first.agent, first.agent_path, first.user_id, first.attempt) == (
            "judge",
            agent,
            "team/one",
            "ada",
            1,
        )
        assert dict(first.labels) == {"team": "red"}
        assert first.before == ""
        assert last.is_final
        assert (last.before + last.text).endswith("hello there, [name] and good night")
        assert seen.text == "hello there, [name] and good night"


@asynchronous
async def test_what_is_only_observed_goes_on_and_is_counted_and_written_down(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("gossip")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "gossip"
    line = await asyncio.to_thread(scene.dispatcher.wait_for_log, "judges the content of the agent: gossip")
    told = json.loads(line)
    assert (told["policy"], told["rule"], told["action"], told["kind"]) == (
        "policy_service",
        "judge",
        "observe",
        "content",
    )
    metrics = await asyncio.to_thread(scene.dispatcher.scrape)
    assert metrics['dispatcher_policy_questions_total{action="observe",service="judge"}'] >= 1
    assert metrics['dispatcher_policy_question_seconds_count{service="judge"}'] >= 1
    assert metrics['dispatcher_policy_service_open{service="judge"}'] == 0


@asynchronous
async def test_a_stop_waits_for_no_verdict(scene: Scene) -> None:
    agent = unique("agent")
    scene.judge.goes_on.clear()
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("hang")
        await asked(scene.judge, turn, "hang")
        receipt = await talk.request("1", stop=chat_pb2.StopAsked())
        assert not receipt.HasField("error")
        assert (await seen.ended()).name == "stopped"
        assert seen.text == ""
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_USER_CANCEL
        scene.judge.goes_on.set()


# --- what comes whole --------------------------------------------------------------------------------------


@asynchronous
async def test_a_call_that_is_denied_does_not_run_and_its_agent_goes_on(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("one moment")
        await turn.call("tell", '{"what": "forbidden"}', "a")
        result = await turn.result()
        assert result.error.code == agent_pb2.TOOL_ERROR_CODE_DENIED
        assert result.error.message == (
            "policy_service: service 'judge' judges the tool call of the agent: not for agents"
        )
        await turn.call("tell", '{"what": "fine"}', "b")
        assert json.loads((await turn.result()).result_json) == "fine"
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        # All that was said before a call is shown before it.
        assert seen.kinds.index("content") < seen.kinds.index("tool_call")
        assert seen.text == "one moment"
        (asked,) = [each for each in scene.judge.of(turn.session_id) if "forbidden" in each.text]
        assert (asked.kind, asked.tool_name) == (policy_pb2.TEXT_KIND_TOOL_CALL, "tell")


@asynchronous
async def test_a_result_that_is_denied_reaches_nobody(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.call("leak", "{}", "a")
        result = await turn.result()
        assert result.error.code == agent_pb2.TOOL_ERROR_CODE_DENIED
        await turn.finish()
        await seen.ended()
        error = seen.of("tool_result")[0].tool_result.error
        assert error.message == (
            "policy_service: service 'judge' judges the tool result of the agent: not for agents"
        )
        # What is written with escapes is read as it is meant.
        seen = await talk.ask(agent, client_ref="2")
        turn = await link.started()
        await turn.call("tell", '{"what": "for\\u0062idden"}', "a")
        assert "tool call" in (await turn.result()).error.message


@asynchronous
async def test_what_stops_in_a_call_or_a_question_is_told_to_nobody(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.call("tell", '{"what": "secret"}', "a")
        assert (await seen.ended()).name == "policy_blocked"
        assert "tool_call" not in seen.kinds
        seen = await talk.ask(agent, client_ref="2")
        turn = await link.started()
        await turn.ask("q", "do you know the secret?")
        assert (await seen.ended()).name == "policy_blocked"
        assert "question" not in seen.kinds
        seen = await talk.ask(agent, client_ref="3")
        turn = await link.started()
        await turn.say("Tell me, ")
        await turn.ask("q", "how are you?")
        await seen.until("question")
        assert seen.text == "Tell me, "


# --- what users say ----------------------------------------------------------------------------------------


@asynchronous
async def test_what_a_user_says_is_judged_before_any_agent_hears_of_it(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent, "tell me the secret")
        ended = await seen.ended()
        assert ended.name == "policy_blocked"
        assert (
            ended.message == "policy_service: service 'judge' judges the message of the user: a secret word"
        )
        assert link.started_nothing()
        seen = await talk.ask(agent, "hello", client_ref="2")
        turn = await link.started()
        await turn.ask("q", "how are you?")
        await seen.until("question")
        receipt = await talk.request("2", message=chat_pb2.AddMessage(text="by the way"))
        assert not receipt.HasField("error")
        assert (await turn.heard("user_message")).user_message.text == "by the way"
        receipt = await talk.request(
            "2", answer=chat_pb2.AnswerQuestion(question_id="q", value_json='"a secret"')
        )
        assert receipt.error.code == "session_ended"
        assert (await seen.ended()).name == "policy_blocked"
        seen = await talk.ask(agent, "hello", client_ref="3")
        await link.started()
        receipt = await talk.request("3", message=chat_pb2.AddMessage(text="a secret"))
        assert receipt.error.code == "session_ended"
        assert (await seen.ended()).name == "policy_blocked"
        assert "user_message" not in seen.kinds


@asynchronous
async def test_what_a_user_says_goes_on_with_marks_everywhere(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent, "Ada has the pin 1234")
        turn = await link.started()
        assert turn.start.messages[0].parts[0].text == "[name] has the pin [pin]"
        message = chat_pb2.AddMessage(text="and 5678, says Ada", idempotency_key="k")
        first = await talk.request("1", message=message)
        assert (await turn.heard("user_message")).user_message.text == "and [pin], says [name]"
        # The same once more is the same.
        again = await talk.request("1", message=message)
        assert (again.error.code, again.message_id) == ("", first.message_id)
        await turn.ask("q", "which one?")
        await seen.until("question")
        for _ in range(2):
            answer = chat_pb2.AnswerQuestion(question_id="q", value_json='{"pin": "4321"}')
            assert not (await talk.request("1", answer=answer)).HasField("error")
        assert (await turn.heard("answer")).answer.value_json == '{"pin": "[pin]"}'
        assert seen.of("user_message")[0].user_message.text == "and [pin], says [name]"
        # A number can't be a mark.
        await turn.ask("p", "and in figures?")
        await seen.until("question", 2)
        answer = chat_pb2.AnswerQuestion(question_id="p", value_json="4321")
        assert (await talk.request("1", answer=answer)).error.code == "session_ended"
        assert (await seen.ended()).name == "policy_blocked"


@asynchronous
async def test_on_one_stream_nobody_waits_for_what_is_judged_of_another_session(scene: Scene) -> None:
    agent = unique("agent")
    scene.judge.goes_on.clear()
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        runs = await talk.ask(agent, client_ref="runs")
        turn = await link.started()
        hanging = chat_pb2.ClientPacket(client_ref="hangs", ask=asking(agent, "hang on"))
        await talk.send(hanging)
        message = chat_pb2.AddMessage(text="hang, too")
        await talk.send(chat_pb2.ClientPacket(client_ref="runs", message=message))
        other = await talk.ask(agent, "good day", client_ref="other")
        await other.until("started")
        # Behind a message of the same session that is still judged.
        assert not (await talk.request("runs", stop=chat_pb2.StopAsked())).HasField("error")
        assert (await runs.ended()).name == "stopped"
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_USER_CANCEL
        await talk.half_close()
        scene.judge.goes_on.set()
        receipts = {(await talk.receipt()).client_ref: True for _ in range(2)}
        assert set(receipts) == {"hangs", "runs"}


@asynchronous
async def test_what_rules_stop_nobody_is_asked_about(scene: Scene) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent, "hush, Ada")
        assert (await seen.ended()).message.startswith("policy_file: rule 'word'")
        seen = await talk.ask(agent, "hello, Ada", client_ref="2")
        turn = await link.started()
        await turn.call("tell", '{"what": "hush"}', "a")
        assert (await seen.ended()).message.startswith("policy_file: rule 'word'")
    texts = [each.text for each in scene.judge.asked if each.agent == agent]
    assert texts == ["hello, [name]"]


@asynchronous
async def test_over_http_a_user_is_judged_too(scene_http: Scene) -> None:
    agent = unique("agent")
    async with (
        linked(scene_http.dispatcher.address, agent) as link,
        browsing(scene_http.dispatcher.url) as web,
    ):
        answer = await web.post(
            "/v1/chat/completions",
            json={"model": agent, "messages": [{"role": "user", "content": "the secret"}]},
        )
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
        assert link.started_nothing()
        scene_http.judge.judge = _falls
        answer = await web.post(
            "/v1/chat/completions",
            json={"model": agent, "messages": [{"role": "user", "content": "good day"}]},
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "policy_unavailable")
        assert "retry-after" in answer.headers


@asynchronous
async def test_on_a_websocket_a_stop_waits_for_no_judge(scene_http: Scene) -> None:
    agent = unique("agent")
    url = scene_http.dispatcher.url.replace("http://", "ws://")
    async with (
        linked(scene_http.dispatcher.address, agent) as link,
        connect(f"{url}/v1/ws") as socket,
    ):
        asked: dict[str, Any] = {
            "request": "ask",
            "agent": agent,
            "input": "good day",
            "request_id": "1",
        }
        await socket.send(json.dumps(asked))
        session_id = (await link.started()).session_id
        message = {"request": "message", "session_id": session_id, "text": "hang", "request_id": "2"}
        await socket.send(json.dumps(message))
        await socket.send(json.dumps({"request": "stop", "session_id": session_id, "request_id": "3"}))
        told: list[dict[str, Any]] = []
        while not any(each["event"] == "ended" for each in told):
            told.append(json.loads(await soon(socket.recv())))
        receipts = [each["request_id"] for each in told if each["event"] == "receipt"]
        assert receipts == ["1", "3"]
        scene_http.judge.goes_on.set()
        last = json.loads(await soon(socket.recv()))
        assert (last["request_id"], last["fields"]["error"]["code"]) == ("2", "session_ended")


def _falls(request: policy_pb2.JudgeRequest) -> policy_pb2.JudgeResponse:
    return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_UNSPECIFIED)


@pytest.fixture
def scene_http(tmp_path: Path) -> Iterator[Scene]:
    with judging() as judge:
        path = put(tmp_path / "policies.toml", table("judge", judge.address, on=EVERYTHING, deadline_s=30.0))
        with running_dispatcher("--policy-file", str(path), "--http-address", "127.0.0.1:0") as dispatcher:
            yield Scene(judge, dispatcher)


# --- who does not answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "why"), [("shut", "it can't be reached"), ("late", "no answer within 0.2 s")]
)
@asynchronous
async def test_who_does_not_answer_stops_what_it_should_judge(scene: Scene, agent: str, why: str) -> None:
    scene.judge.goes_on.clear()
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("hang")
        ended = await seen.ended()
        assert ended.name == "policy_unavailable"
        assert ended.retryable
        assert ended.message == (
            f"policy_service_failed: service '{agent}' has not judged the content of the agent: {why}"
        )
        assert seen.text == ""
        scene.judge.goes_on.set()


@asynchronous
async def test_where_the_table_says_so_what_was_not_judged_goes_on_and_is_told_of(scene: Scene) -> None:
    async with linked(scene.dispatcher.address, "open") as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask("open")
        turn = await link.started()
        await turn.say("whatever it is")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "whatever it is"
        # The other service was asked all the same.
        seen = await talk.ask("open", client_ref="2")
        turn = await link.started()
        await turn.say("a secret")
        assert (await seen.ended()).name == "policy_blocked"
    line = await asyncio.to_thread(scene.dispatcher.wait_for_log, '"failed_open"')
    assert json.loads(line)["rule"] == "open"


@asynchronous
@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("nonsense", "action: is not set"),
        ("garbage", "it is no JudgeResponse"),
        ("confetti", "spans: has 10001; at most 10000 are right"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_none(scene: Scene, word: str, why: str) -> None:
    agent = unique("agent")
    async with linked(scene.dispatcher.address, agent) as link, conversing(scene.dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say(word)
        ended = await seen.ended()
        assert ended.name == "policy_unavailable"
        assert ended.message.endswith(f"its answer makes no sense: {why}")


@asynchronous
async def test_what_fails_again_and_again_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with judging() as judge:
        judge.judge = _falls
        keys: dict[str, Any] = {"failures_max": 2, "open_s": 3600.0, "deadline_s": 30.0, "on": ["user"]}
        path = put(tmp_path / "policies.toml", table("judge", judge.address, **keys))
        flags = ("--policy-file", str(path), "--policy-poll-s", "0.05")
        with running_dispatcher(*flags) as dispatcher:
            agent = unique("agent")
            async with linked(dispatcher.address, agent), conversing(dispatcher.address) as talk:
                for number in range(4):
                    seen = await talk.ask(agent, client_ref=str(number))
                    ended = await seen.ended()
                    assert ended.name == "policy_unavailable"
                assert "left alone" in ended.message
                assert len(judge.asked) == 2
                metrics = await asyncio.to_thread(dispatcher.scrape)
                assert metrics['dispatcher_policy_service_open{service="judge"}'] == 1
                assert metrics['dispatcher_policy_questions_total{action="failed",service="judge"}'] == 4
                # Another table is another try.
                judge.judge = JudgeService().judge
                put(path, table("judge", judge.address, **keys | {"open_s": 10.0}))
                reloads = 'dispatcher_policy_reloads_total{outcome="loaded"}'

                async def reloaded() -> bool:
                    return (await asyncio.to_thread(dispatcher.scrape)).get(reloads, 0) >= 1

                await eventually(reloaded)
                seen = await talk.ask(agent, client_ref="again")
                await seen.until("started")

                async def closed() -> bool:
                    metrics = await asyncio.to_thread(dispatcher.scrape)
                    return metrics['dispatcher_policy_service_open{service="judge"}'] == 0

                await eventually(closed)


@needs_openssl
@asynchronous
async def test_it_is_reached_over_tls_with_its_secret(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path, "judge")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    (tmp_path / "token").write_text("hidden\n")
    with judging(credentials=credentials) as judge:
        text = table("judge", judge.address, tls=True, tls_ca=str(certificate), on=["user"])
        text += f'headers.Authorization = {{ file = "{tmp_path / "token"}", before = "Bearer " }}\n'
        path = put(tmp_path / "policies.toml", text)
        with running_dispatcher("--policy-file", str(path), "--log-level", "debug") as dispatcher:
            agent = unique("agent")
            async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
                await talk.ask(agent, "good day")
                await link.started()
            assert judge.metadata[0]["authorization"] == "Bearer hidden"
            assert not any("hidden" in line for line in dispatcher.log)


@asynchronous
async def test_whoever_becomes_the_only_agent_meanwhile_gets_what_was_judged_for_it(tmp_path: Path) -> None:
    with judging() as judge:
        keys: dict[str, Any] = {"on": ["user"], "deadline_s": 30.0}
        text = table("all", judge.address, **keys) + table("own", judge.address, agents=["strict"], **keys)
        path = put(tmp_path / "policies.toml", text)
        with running_dispatcher("--policy-file", str(path)) as dispatcher:
            async with conversing(dispatcher.address) as talk:
                asking = asyncio.create_task(talk.ask("", "hang on"))
                await asyncio.to_thread(judge.wait_asked, lambda each: each.policy == "all")
                async with linked(dispatcher.address, "strict") as link:
                    judge.goes_on.set()
                    await asking
                    turn = await link.started()
                    assert {each.policy for each in judge.of(turn.session_id)} == {"all", "own"}


@needs_openssl
@asynchronous
async def test_without_its_certificates_it_is_not_asked_and_all_else_goes_on(tmp_path: Path) -> None:
    certificate, _ = certify(tmp_path, "judge")
    text = table("judge", "localhost:1", tls=True, tls_ca=str(certificate), agents=["judged"])
    path = put(tmp_path / "policies.toml", text)
    with running_dispatcher("--policy-file", str(path)) as dispatcher:
        certificate.unlink()
        for agent, ending in (("judged", "policy_unavailable"), ("other", "completed")):
            async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
                seen = await talk.ask(agent)
                turn = await link.started()
                await turn.say("good day")
                await turn.finish()
                assert (await seen.ended()).name == ending
        line = await asyncio.to_thread(dispatcher.wait_for_log, "service.judge.tls_ca: ")
        assert "can't be read: No such file or directory" in line


# --- what breaks -------------------------------------------------------------------------------------------


def resumed(turn: Turn) -> agent_pb2.Resume:
    return agent_pb2.Resume(
        session_id=turn.session_id, attempt=turn.attempt, last_sequence_sent=turn.sequence
    )


@asynchronous
async def test_a_link_that_breaks_while_it_is_judged_loses_and_doubles_nothing(scene: Scene) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    said, arguments = "long enough to be held back, and hang", '{"what": "fine"}'
    scene.judge.goes_on.clear()
    async with conversing(scene.dispatcher.address) as talk:
        async with linked(scene.dispatcher.address, agent, **me) as link:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say(said)
            await turn.call("tell", arguments, "a")
            await asked(scene.judge, turn, "hang")
        async with linked(scene.dispatcher.address, agent, **me, resumes=[resumed(turn)]) as link:
            # Nothing of it is kept yet.
            assert link.welcome.resumes[0].resumed.next_sequence == 1
            call = agent_pb2.ToolCallRequest(call_id="a", tool_name="tell", arguments_json=arguments)
            await link.write(
                turn.packet(sequence=1, content=agent_pb2.ContentChunk(text=said)),
                turn.packet(sequence=2, tool_call=call),
            )
            scene.judge.goes_on.set()
            result = (await link.heard("tool_result", turn.session_id)).tool_result
            assert json.loads(result.result_json) == "fine"
            turn.text = said
            await link.write(turn.finished())
            assert (await seen.ended()).name == "completed"
    assert seen.text == said
    assert (seen.kinds.count("tool_call"), seen.kinds.count("tool_result")) == (1, 1)


@asynchronous
async def test_text_that_waits_is_judged_after_a_restart(tmp_path: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with judging() as judge:
        path = put(tmp_path / "policies.toml", table("judge", judge.address, deadline_s=50.0))
        flags = ("--policy-file", str(path), "--journal", f"sqlite:{tmp_path / 'journal'}")
        with running_dispatcher(*flags) as first:
            async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
                await talk.ask(agent)
                turn = await link.started()
                await turn.say("hang on, the pin is 12")
                await asked(judge, turn, "hang")
                # The mark is kept.
                await turn.acknowledged(0)
                first.signal(signal.SIGKILL)
                first.wait()
        judge.goes_on.set()
        with running_dispatcher(*flags) as second:
            async with (
                linked(second.address, agent, **me, resumes=[resumed(turn)]) as link,
                chatting(second.address) as chat,
            ):
                assert link.welcome.resumes[0].resumed.next_sequence == 1
                again = agent_pb2.ContentChunk(text="hang on, the pin is 12")
                more = agent_pb2.ContentChunk(text="34, good bye")
                await link.write(turn.packet(sequence=1, content=again), turn.packet(content=more))
                turn.text = "hang on, the pin is 1234, good bye"
                await link.write(turn.finished())
                request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
                async with viewing(chat.Subscribe(request), turn.session_id) as (_, seen):
                    assert (await seen.ended()).name == "completed"
                    assert seen.text == "hang on, the pin is [pin], good bye"


# --- what is wrong with a table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[service.judge]\ntls = false\n", "service.judge.address: is missing"),
        (table("judge", "somewhere"), "service.judge.address: should be HOST:PORT"),
        (table("judge", "10.0.0.1:1"), "what is said would be sent in the clear: tls = true is right"),
        (table("judge", NOBODY, on=["statements"]), "service.judge.on[0]: should be 'content'"),
        (table("judge", NOBODY, on_failure="open"), "service.judge.on_failure: should be 'stop' or 'pass'"),
        (table("judge", NOBODY, deadline_s=0), "service.judge.deadline_s: should be greater than or equal"),
        (
            table("judge", NOBODY, dead_line=1),
            "service.judge.dead_line: there is no such key; did you mean deadline_s?",
        ),
        (
            table("judge", NOBODY) + 'headers.Authorization = { env = "NOT_THERE" }\n',
            "service.judge.headers.Authorization: the variable NOT_THERE is not set",
        ),
        (
            table("judge", NOBODY) + '[rule.judge]\nliterals = ["a"]\naction = "stop"\n',
            "service.judge: a rule has that name too",
        ),
        ("[services.judge]\n", "services: there is no such table; did you mean service?"),
    ],
)
def test_a_table_that_can_not_be_used_is_told_of_before_anything_starts(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = put(tmp_path / "policies.toml", text)
    failed = serve_and_fail("--policy-file", str(path))
    assert problem in failed.stderr
    assert "Traceback" not in failed.stderr
