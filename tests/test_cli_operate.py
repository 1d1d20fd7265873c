"""The operator's commands, each as a real process against a real server with scripted answers."""

import getpass
import json
import os
from pathlib import Path

import grpc
import pytest
from asynchronous import asynchronous
from console_server import RefusalError, Scripted, play, run_cli, scripted_dispatcher
from dispatcher_process import DispatcherProcess
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2


def told(answers: dict[str, object], *words: str) -> tuple[int, str, str, Scripted]:
    """Runs one command against fixed answers; an exception among them is raised."""
    results: list[tuple[int, str, str, Scripted]] = []

    def answer_of(fixed: object):  # type: ignore[no-untyped-def]
        def answer(request: Message) -> Message:
            response = fixed(request) if callable(fixed) else fixed
            if isinstance(response, Exception):
                raise response
            assert isinstance(response, Message)
            return response

        return answer

    async def scene() -> None:
        async with scripted_dispatcher() as server:
            server.answers = {name: answer_of(fixed) for name, fixed in answers.items()}
            results.append((*await run_cli(*words, address=server.address), server))

    play(scene())
    return results[0]


STOPPED = admin_pb2.StopSessionResponse(result=admin_pb2.STOP_RESULT_STOPPED, stop_id="x1", ending="stopped")


def test_stop_names_its_sessions_and_an_unknown_one_does_not_save_the_others() -> None:
    def answer(request: admin_pb2.StopSessionRequest) -> Message | Exception:
        if request.session_id == "gone":
            return RefusalError(grpc.StatusCode.NOT_FOUND, "no session gone")
        if request.session_id == "over":
            return admin_pb2.StopSessionResponse(
                result=admin_pb2.STOP_RESULT_ALREADY_ENDED, ending="completed"
            )
        return STOPPED

    status, out, err, server = told(
        {"StopSession": answer}, "stop", "a", "gone", "over", "a",
        "--reason", "wrong customer", "--code", "risk-control", "--actor", "alice", "--grace-s", "1.5",
    )  # fmt: skip
    assert out == "a stopped\nover had already ended: completed\n"
    assert err == (
        "dispatcher: session gone is not kept any more, or never was: "
        "`dispatcher sessions --all-ended` lists those that are kept\n"
    )
    assert status == 5
    assert server.requests[0] == admin_pb2.StopSessionRequest(
        session_id="a",
        reason="wrong customer",
        code=agent_pb2.STOP_CODE_RISK_CONTROL,
        actor="alice",
        grace=Duration(seconds=1, nanos=500_000_000),
    )
    assert len(server.requests) == 3


def test_stop_is_done_by_whoever_is_logged_in() -> None:
    _, _, _, server = told({"StopSession": STOPPED}, "stop", "a")
    assert server.requests == [admin_pb2.StopSessionRequest(session_id="a", actor=getpass.getuser())]


def test_a_login_name_that_is_no_text_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", os.fsdecode(b"caf\xe9"))
    status, _, err, server = told({"StopSession": STOPPED}, "stop", "a")
    assert (status, err) == (0, "")
    assert server.requests == [admin_pb2.StopSessionRequest(session_id="a")]


def test_stop_by_selector() -> None:
    answer = admin_pb2.StopSessionsResponse(stopped=2, session_ids=["a", "b"])
    status, out, _, server = told(
        {"StopSessions": answer}, "stop", "--user", "u", "--agent", "g", "--commander", "c", "--label", "k=v",
        "--actor", "",
    )  # fmt: skip
    assert (status, out) == (0, "a stopped\nb stopped\n2 sessions stopped\n")
    selector = admin_pb2.SessionSelector(user_id="u", agent="g", commander_id="c", labels={"k": "v"})
    assert server.requests == [admin_pb2.StopSessionsRequest(selector=selector)]
    _, out, _, server = told({"StopSessions": answer}, "stop", "--all", "--json")
    assert server.requests[0].selector == admin_pb2.SessionSelector(all=True)
    assert json.loads(out) == {"stopped": 2, "session_ids": ["a", "b"]}


def view(number: int) -> admin_pb2.SessionView:
    return admin_pb2.SessionView(
        session_id=f"s-{number}", state="running", agent="demo", user_id="u\x1b[0m", commander_id="c1", attempt=1,
        phase=agent_pb2.HEARTBEAT_PHASE_WAITING_TOOL, age=Duration(seconds=75), content_chars=12, tool_calls=3,
        tool_calls_running=1, cursor=chat_pb2.Cursor(epoch="e1", offset=9), labels={"k": "v"},
    )  # fmt: skip


def test_sessions_is_a_table_over_all_pages() -> None:
    def answer(request: admin_pb2.ListSessionsRequest) -> admin_pb2.ListSessionsResponse:
        assert request.selector == admin_pb2.SessionSelector(all=True)
        if not request.page_token:
            return admin_pb2.ListSessionsResponse(sessions=[view(1)], next_page_token="next")  # noqa: S106
        assert request.page_token == "next"  # noqa: S105
        return admin_pb2.ListSessionsResponse(sessions=[view(2)])

    status, out, err, _ = told({"ListSessions": answer}, "sessions")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["SESSION", "STATE", "AGENT", "USER", "COMMANDER", "ATTEMPT", "AGE", "CHARACTERS", "TOOLS", "NOW"],
        *(
            [f"s-{n}", "running", "demo", r"u\x1b[0m", "c1", "1", "1m15s", "12", "1/3", "waiting", "tool"]
            for n in (1, 2)
        ),
    ]


def test_sessions_has_a_limit_and_says_so() -> None:
    answer = admin_pb2.ListSessionsResponse(sessions=[view(1)], next_page_token="next")  # noqa: S106
    status, out, err, server = told(
        {"ListSessions": answer}, "sessions", "--limit", "1", "--all-ended", "--agent", "demo", "--json"
    )
    assert [json.loads(line)["session_id"] for line in out.splitlines()] == ["s-1"]
    assert err == "there are more than 1 sessions: raise --limit, or select fewer\n"
    assert status == 0
    selector = admin_pb2.SessionSelector(agent="demo")
    assert server.requests == [
        admin_pb2.ListSessionsRequest(selector=selector, include_ended=True, page_size=1)
    ]


def test_no_sessions_is_said_and_is_no_failure() -> None:
    empty = admin_pb2.ListSessionsResponse()
    assert told({"ListSessions": empty}, "sessions")[:3] == (0, "", "no sessions\n")
    assert told({"ListSessions": empty}, "sessions", "--json")[:3] == (0, "", "")


def test_session_shows_what_is_known() -> None:
    one = view(1)
    one.open_questions.add(question_id="q1", text="Which?", options=["a", "b"])
    one.ended.CopyFrom(
        chat_pb2.SessionEnded(name="stopped", stop=agent_pb2.StopSignal(reason="Enough", actor="alice"))
    )
    status, out, _, server = told({"GetSession": admin_pb2.GetSessionResponse(session=one)}, "session", "s-1")
    assert status == 0
    assert server.requests == [admin_pb2.GetSessionRequest(session_id="s-1")]
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["session"] == "s-1"
    assert lines["cursor"] == "e1:9"
    assert lines["question"] == "q1: Which? (a / b)"
    assert lines["ending"] == "stopped"
    assert lines["stop"] == "Enough by alice"
    assert "usage" not in lines


def test_session_that_is_not_there() -> None:
    gone = RefusalError(grpc.StatusCode.NOT_FOUND, "no session s-9")
    status, out, err, _ = told({"GetSession": gone}, "session", "s-9")
    assert err.startswith(
        "dispatcher: session s-9 is not kept any more, or never was: `dispatcher sessions --all-ended`"
    )
    assert (status, out) == (5, "")


def test_commanders_agents_and_tools() -> None:
    models = [
        agent_pb2.ModelOffer(name="deep", takes_images=False),
        agent_pb2.ModelOffer(name="fast", calls_tools=True),
    ]
    commander = admin_pb2.CommanderView(
        commander_id="c1", state="ready", slots=4, slots_taken=1, slots_stuck=1, peer="ipv4:127.0.0.1:1",
        agents=[agent_pb2.AgentOffer(name="demo", version="2")], blocked_for=Duration(seconds=12),
        models=models[:1],
    )  # fmt: skip
    answers: dict[str, object] = {
        "ListCommanders": admin_pb2.ListCommandersResponse(commanders=[commander]),
        "ListAgents": chat_pb2.ListAgentsResponse(
            agents=[
                chat_pb2.AgentListing(
                    offer=commander.agents[0], commanders=1, slots=4, slots_free=3, models=models, models_left_out=7
                )
            ]
        ),
        "ListTools": admin_pb2.ListToolsResponse(
            tools=[
                admin_pb2.ToolView(
                    offer=agent_pb2.ToolOffer(name="add", description="Adds"), running=1, concurrency=8, calls=3,
                    timeout=Duration(seconds=30), output_bytes=65_536, source="mcp.shop",
                )
            ]
        ),
    }  # fmt: skip
    rows = {
        "commanders": "c1 ready demo@2 1/4 1 0.0s 0.0s 12s - deep - ipv4:127.0.0.1:1",
        "agents": "demo 2 1 1/4 deep,fast(tools),+7 -",
        "tools": "add mcp.shop 1/8 3 30s 65536 Adds",
    }
    for command, row in rows.items():
        status, out, _, _ = told(answers, command)
        assert status == 0
        assert " ".join(out.splitlines()[1].split()) == row
        assert ("SLOTS USED" in out) is (command != "tools")
        record = json.loads(told(answers, command, "--json")[1])
        if command != "tools":
            assert (record["models"][0]["name"], record["models"][0]["takes_images"]) == ("deep", False)


def test_a_table_shows_the_first_models_and_how_many_more_there_are() -> None:
    models = [agent_pb2.ModelOffer(name=f"m{number}", takes_files=True) for number in range(6)]
    listing = chat_pb2.AgentListing(offer=agent_pb2.AgentOffer(name="demo"), models=models, models_left_out=7)
    answers: dict[str, object] = {"ListAgents": chat_pb2.ListAgentsResponse(agents=[listing])}
    _, out, _, _ = told(answers, "agents")
    assert "m0(files),m1(files),m2(files),m3(files),+9" in out
    assert len(json.loads(told(answers, "agents", "--json")[1])["models"]) == 6


def test_drain() -> None:
    answers: dict[str, object] = {
        "Drain": admin_pb2.DrainResponse(running=2),
        "DrainCommander": lambda request: (
            admin_pb2.DrainCommanderResponse(running=1)
            if request.commander_id == "c1"
            else RefusalError(grpc.StatusCode.NOT_FOUND, "no commander c2")
        ),
    }
    status, out, _, server = told(answers, "drain", "--deadline-s", "60", "--reason", "update")
    assert (status, out) == (0, "the dispatcher drains: 2 sessions still running\n")
    assert server.requests == [admin_pb2.DrainRequest(reason="update", deadline=Duration(seconds=60))]
    status, out, _, server = told(answers, "drain", "--commander", "c1")
    assert (status, out) == (0, "commander c1 drains: 1 session still running\n")
    assert server.requests == [admin_pb2.DrainCommanderRequest(commander_id="c1")]
    status, _, err, _ = told(answers, "drain", "--commander", "c2")
    assert err.startswith("dispatcher: no commander c2 is connected")
    assert status == 5


def test_limits_are_shown_and_changed() -> None:
    limit = admin_pb2.Limit(name="queue_wait_s", value=0.1, changeable=True, mode="enforce", description="d")
    answers: dict[str, object] = {
        "GetLimits": admin_pb2.GetLimitsResponse(limits=[limit]),
        "SetLimits": admin_pb2.SetLimitsResponse(limits=[limit]),
    }
    row = "queue_wait_s 0.1 yes enforce d"  # a mode that only a newer dispatcher knows
    assert " ".join(told(answers, "limits")[1].splitlines()[1].split()) == row
    _, out, _, server = told(
        answers, "limits", "--set", "queue_wait_s=0.1", "--set", "b=2e3", "--mode", "c=observe", "--json"
    )
    assert json.loads(out)["value"] == 0.1
    assert server.requests == [
        admin_pb2.SetLimitsRequest(values={"queue_wait_s": 0.1, "b": 2000}, modes={"c": "observe"})
    ]


def test_a_limit_with_a_mode_shows_it_as_it_is_typed() -> None:
    limits = [
        admin_pb2.Limit(name="deny_speakers_max", value=1000, mode="observe", description="d"),
        admin_pb2.Limit(name="sessions_max", value=1, changeable=True, description="d"),
    ]
    _, out, _, _ = told({"GetLimits": admin_pb2.GetLimitsResponse(limits=limits)}, "limits")
    rows = [" ".join(line.split()) for line in out.splitlines()[1:]]
    assert rows == ["deny_speakers_max 1000 no deny_mode=observe d", "sessions_max 1 yes - d"]


@pytest.mark.parametrize(
    ("code", "status", "sentence"),
    [
        (grpc.StatusCode.UNAVAILABLE, 6, "no dispatcher answers at"),
        (grpc.StatusCode.UNAUTHENTICATED, 5, "wants to know who asks (why): add --token-file FILE"),
        (grpc.StatusCode.PERMISSION_DENIED, 5, "does not allow it (why): use a token of another role"),
        (grpc.StatusCode.INVALID_ARGUMENT, 5, "refuses, invalid argument: why"),
        (grpc.StatusCode.UNIMPLEMENTED, 5, "is it a dispatcher?"),
        (grpc.StatusCode.INTERNAL, 4, "failed, internal: why; see its log"),
    ],
)
def test_every_refusal_is_one_sentence(code: grpc.StatusCode, status: int, sentence: str) -> None:
    told_status, out, err, _ = told({"GetLimits": RefusalError(code, "why\x1b[31m")}, "limits")
    assert sentence in err.replace(r"\x1b[31m", "")
    assert "\x1b" not in err
    assert err.count("\n") == 1
    assert (told_status, out) == (status, "")


def test_a_token_goes_along(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("  s3cret\n")
    answer = admin_pb2.GetLimitsResponse()
    _, _, _, server = told({"GetLimits": answer}, "limits", "--token-file", str(token))
    assert server.metadata["authorization"] == "Bearer s3cret"
    _, _, _, server = told({"GetLimits": answer}, "limits")
    assert "authorization" not in server.metadata


def test_commanders_and_agents_are_asked_for_page_by_page() -> None:
    def commanders(request: admin_pb2.ListCommandersRequest) -> Message:
        if not request.page_token:
            view = admin_pb2.CommanderView(commander_id="c-1", state="ready")
            return admin_pb2.ListCommandersResponse(commanders=[view], next_page_token="c-1")  # noqa: S106 - no password
        assert request.page_token == "c-1"  # noqa: S105 - no password
        view = admin_pb2.CommanderView(commander_id="c-2", state="ready")
        return admin_pb2.ListCommandersResponse(commanders=[view])

    def agents(request: chat_pb2.ListAgentsRequest) -> Message:
        name = "second" if request.page_token else "first"
        listing = chat_pb2.AgentListing(offer=agent_pb2.AgentOffer(name=name))
        return chat_pb2.ListAgentsResponse(agents=[listing], next_page_token="" if name == "second" else "x")

    for word, answers, right in (
        ("commanders", {"ListCommanders": commanders}, ["c-1", "c-2"]),
        ("agents", {"ListAgents": agents}, ["first", "second"]),
    ):
        status, out, err, server = told(dict(answers), word)
        assert (status, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()[1:]] == right
        assert len(server.requests) == 2


@asynchronous
async def test_a_limit_that_is_wrong_is_told_as_it_was_typed(dispatcher: DispatcherProcess) -> None:
    for typed, told_as in (("0", "0"), ("0.5", "0.5"), ("-0", "0"), ("2e6", "2000000")):
        words = ("limits", "--set", f"user_sessions_max={typed}")
        status, out, err = await run_cli(*words, address=dispatcher.address)
        complaint = f"user_sessions_max: {told_as} should be a whole number of sessions from 1 to 1000000\n"
        assert err.endswith(complaint)
        assert (status, out) == (5, "")
