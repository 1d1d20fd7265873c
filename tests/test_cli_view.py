"""How a session looks: each kind of event, several speakers, the bar and the prompt."""

import io

import pytest
from console_server import Tale
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.speakers import HOLD_CHARS
from dispatcher.console.terminal import Look, Page
from dispatcher.console.view import JsonView, PageView, percent_of, view_of

PLAIN = Look(live=False, colour=False, rich=True)
LIVE = Look(live=True, colour=False, rich=True)


def gap(reason: str, offset: int, epoch: str = "e1") -> chat_pb2.Gap:
    requested = chat_pb2.Cursor(epoch="e1", offset=2)
    available = chat_pb2.Cursor(epoch=epoch, offset=offset)
    return chat_pb2.Gap(reason=reason, requested=requested, available_from=available)


def shown(*events: chat_pb2.SessionEvent, look: Look = PLAIN) -> str:
    stream = io.StringIO()
    view = PageView(Page(stream, look), io.StringIO())
    for event in events:
        view.show(event)
        view.flush()
    view.close()
    return stream.getvalue()


def test_every_kind_of_event_is_known() -> None:
    kinds = {field.name for field in chat_pb2.SessionEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert PageView(Page(io.StringIO(), PLAIN), io.StringIO()).kinds == kinds


def test_thoughts_are_grouped_by_step_and_content_is_as_it_came() -> None:
    tale = Tale()
    assert shown(
        tale.thought("Planning", "First"),
        tale.thought("Planning", " this,\nthen that"),
        tale.thought("Doing", "now"),
        tale.content("Hel"),
        tale.content("lo\n\n  you"),
    ) == (
        "Planning │ First this,\n"
        "Planning │ then that\n"
        "Doing │ now\n"
        "Hello\n"
        "\n"
        "  you\n"
    )  # fmt: skip


def test_each_kind_is_one_short_line() -> None:
    tale = Tale()
    error = agent_pb2.ErrorSignal(code="rate_limited", origin=agent_pb2.ERROR_ORIGIN_LLM, message="slow down")
    failed = agent_pb2.ToolError(code=agent_pb2.TOOL_ERROR_CODE_TIMEOUT, message="took 5 s")
    last_piece = agent_pb2.Artifact(
        artifact_id="a", name="p.png", mime_type="image/png", data=b"6", is_last=True
    )
    page = shown(
        tale.opened(),
        tale.event(started=chat_pb2.SessionStarted(commander_id="c1")),
        tale.event(tool_call=agent_pb2.ToolCallRequest(tool_name="add", arguments_json='{"a":\n 1}')),
        tale.event(tool_result=agent_pb2.ToolCallResult(tool_name="add", result_json="3")),
        tale.event(tool_result=agent_pb2.ToolCallResult(tool_name="add", error=failed)),
        tale.event("team/x", agent_event=agent_pb2.AgentEvent(started=agent_pb2.AgentStarted(description="digs"))),
        tale.event("team/x", agent_event=agent_pb2.AgentEvent(failed=agent_pb2.AgentFailed(error=error))),
        tale.event(artifact=agent_pb2.Artifact(artifact_id="a", data=b"12345")),
        tale.event(artifact=last_piece),
        tale.event(embedding=agent_pb2.Embedding(name="v", values=[1, 2])),
        tale.event(usage=agent_pb2.Usage(input_tokens=1)),
        tale.event(error=error),
        tale.event(user_message=agent_pb2.UserMessage(text="shorter")),
        tale.event(answer=agent_pb2.Answer(cancelled=agent_pb2.AnswerCancelled(why="expired"))),
        tale.event(reset=chat_pb2.Reset(discard_after=chat_pb2.Cursor(epoch="e1", offset=2), reason="commander lost")),
        tale.event(gap=gap("trimmed", 9)),
        tale.ended(),
    )  # fmt: skip
    assert page == (
        "session s-1, agent demo\n"
        "commander c1 takes it\n"
        '→ add {"a": 1}\n'
        "← add 3\n"
        "← add failed, timeout: took 5 s\n"
        "[team/x] started: digs\n"
        "[team/x] failed: rate_limited (llm): slow down\n"
        "* artifact p.png (image/png, 6 bytes)\n"
        "* embedding v (2 values)\n"
        "! rate_limited (llm): slow down\n"
        "+ shorter\n"
        "= no answer: expired\n"
        "! ==== all above behind event e1:2 is void (commander lost); the answer follows\n"
        "! the part behind e1:2 is no longer kept; what follows begins with event e1:9\n"
    )


def test_a_long_argument_is_whole_where_there_is_no_terminal() -> None:
    call = agent_pb2.ToolCallRequest(tool_name="add", arguments_json='{"a": "' + "x" * 500 + '"}')
    (line,) = shown(Tale().event(tool_call=call)).splitlines()
    assert line == f"→ add {call.arguments_json}"


def test_an_ascii_only_stream_gets_ascii() -> None:
    tale = Tale()
    page = shown(
        tale.thought("Planning", "x"),
        tale.event(tool_call=agent_pb2.ToolCallRequest(tool_name="add", arguments_json="y" * 500)),
        tale.event(progress=agent_pb2.Progress(text="reading", percent=50)),
        look=Look(live=True, colour=False, rich=False),
    )
    assert page.isascii()


def test_speakers_do_not_mix_within_a_line() -> None:
    tale = Tale()
    page = shown(
        tale.content("The root "),
        tale.content("one ", agent="a"),
        tale.content("begins", agent="b"),
        tale.content("goes on.\n"),
        tale.content("two", agent="a"),
        tale.ended(),
    )
    assert page.splitlines() == ["The root goes on.", "[a] one two", "[b] begins"]


def test_a_silent_speaker_does_not_keep_the_others_from_the_page() -> None:
    tale = Tale()
    stream = io.StringIO()
    view = PageView(Page(stream, PLAIN), io.StringIO())
    view.show(tale.content("Wait: "))
    view.show(tale.content("x" * HOLD_CHARS, agent="a"))
    assert stream.getvalue() == "Wait: "
    view.show(tale.content("!", agent="a"))
    assert stream.getvalue() == "Wait: \n[a] " + "x" * HOLD_CHARS + "!"


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (agent_pb2.TOOL_ERROR_CODE_FAILED, "no such zone", "← clock failed: no such zone\n"),
        (agent_pb2.TOOL_ERROR_CODE_UNSPECIFIED, "no such zone", "← clock failed: no such zone\n"),
        (agent_pb2.TOOL_ERROR_CODE_DENIED, "not for you", "← clock failed, denied: not for you\n"),
        (agent_pb2.TOOL_ERROR_CODE_FAILED, "", "← clock failed\n"),
    ],
)
def test_a_tool_that_failed_is_said_to_have_failed_once(
    code: agent_pb2.ToolErrorCode.ValueType, message: str, line: str
) -> None:
    error = agent_pb2.ToolError(code=code, message=message)
    result = agent_pb2.ToolCallResult(tool_name="clock", error=error)
    assert shown(Tale().event(tool_result=result)) == line


SPOKEN = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), st.text("xyz\n", min_size=1, max_size=80)), max_size=30
)


@given(SPOKEN)
def test_nothing_anybody_says_is_lost_or_out_of_order(spoken: list[tuple[str, str]]) -> None:
    tale = Tale()
    page = shown(*(tale.content(text, agent=who) for who, text in spoken), tale.ended())
    for who, prefix in (("", ""), ("a", "[a] "), ("b", "[b] ")):
        said = "".join(text for speaker, text in spoken if speaker == who)
        lines = [
            line for line in page.splitlines() if line.startswith(prefix) and (prefix or "[" not in line)
        ]
        assert "".join(line.removeprefix(prefix) for line in lines) == said.replace("\n", "")


def test_a_bar_stands_below_the_lines_and_makes_way() -> None:
    tale = Tale()
    bar = "████████████░░░░░░░░░░░░  50 % reading"
    page = shown(
        tale.content("Wait\n"),
        tale.event(progress=agent_pb2.Progress(text="reading", current=1, total=2)),
        tale.content("Done"),
        tale.ended(),
        look=LIVE,
    )
    assert page == f"Wait\n{bar}\r\x1b[KDone\n"


@pytest.mark.parametrize(
    ("look", "shown_at_last"), [(LIVE, "░" * 24 + "   2 % \r\x1b[K"), (PLAIN, "progress: 2 %\n")]
)
def test_progress_does_not_break_what_is_being_written_but_work_does(look: Look, shown_at_last: str) -> None:
    tale = Tale()
    told = [tale.content("one "), tale.event(progress=agent_pb2.Progress(percent=1)), tale.content("line")]
    assert shown(*told, tale.ended(), look=look) == "one line\n"
    told += [tale.event(progress=agent_pb2.Progress(percent=percent)) for percent in (1, 2)]
    assert shown(*told, tale.ended(), look=look) == f"one line\n{shown_at_last}"


def test_without_a_terminal_progress_is_a_line_for_each_change() -> None:
    tale = Tale()
    step = agent_pb2.Progress(text="reading", current=1, total=2)
    page = shown(
        tale.event(progress=step),
        tale.event(progress=step),
        tale.event(progress=agent_pb2.Progress(text="x")),
    )
    assert page == "progress: reading 50 %\nprogress: x\n"


@pytest.mark.parametrize(
    ("progress", "percent"),
    [
        (agent_pb2.Progress(percent=33), 33),
        (agent_pb2.Progress(percent=330), 100),
        (agent_pb2.Progress(percent=-1, current=1, total=2), 0),
        (agent_pb2.Progress(current=1, total=4), 25),
        (agent_pb2.Progress(current=1, total=0), None),
        (agent_pb2.Progress(current=1), None),
        (agent_pb2.Progress(percent=float("nan")), None),
        (agent_pb2.Progress(current=float("inf"), total=float("inf")), None),
    ],
)
def test_percent(progress: agent_pb2.Progress, percent: float | None) -> None:
    assert percent_of(progress) == percent


def test_a_notice_breaks_the_line_of_a_terminal_and_no_other() -> None:
    for look, expected in ((LIVE, "half\n way\n"), (PLAIN, "half way\n")):
        stream, notices = io.StringIO(), io.StringIO()
        view = PageView(Page(stream, look), notices)
        tale = Tale()
        view.show(tale.content("half"))
        view.notice("told")
        view.show(tale.content(" way"))
        view.close()
        assert stream.getvalue() == expected
        assert notices.getvalue() == "told\n"


def test_the_prompt_comes_back_after_other_output() -> None:
    stream = io.StringIO()
    view = PageView(Page(stream, LIVE), io.StringIO())
    tale = Tale()
    asked = tale.question("Sure?", "yes", "no")
    view.show(asked)
    view.prompt(asked.question, again=False)
    view.flush()
    view.show(tale.content("meanwhile\n", agent="a"))
    view.flush()
    view.echoed()
    view.prompt(None, again=False)
    view.show(tale.answer('"no"'))
    view.close()
    prompt = "  number or text (Ctrl-D declines) › "
    assert stream.getvalue() == (f'? Sure?\n  1. yes\n  2. no\n{prompt}\n[a] meanwhile\n{prompt}= "no"\n')


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_a_pipe_has_no_colour_and_no_bar(environ: dict[str, str]) -> None:
    stream = io.StringIO()
    assert Look.of(stream, {"TERM": "xterm", **environ}) == Look(live=False, colour=False, rich=False)
    assert isinstance(view_of(stream, stream, environ, as_json=True), JsonView)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (gap("trimmed", 9), "the part behind e1:2 is no longer kept; what follows begins with event e1:9"),
        (
            gap("other_epoch", 0, "e2"),
            (
                "e1:2 is of another life of the dispatcher, which was started again without what it had kept; "
                "nothing of it is to be had"
            ),
        ),
        (
            gap("ahead", 1),
            (
                "there is no event e1:2: the dispatcher has lost its last ones, or there never was one; "
                "all that is kept follows, from its first event on, in place of what is shown above"
            ),
        ),
        (gap("forgotten", 0), "the session is not kept; nothing of it is to be had"),
        (gap("of a later version", 3), "part of the session is not to be had: of a later version; "),
    ],
)
def test_a_gap_says_why_and_what_is_to_be_had(told: chat_pb2.Gap, line: str) -> None:
    assert shown(chat_pb2.SessionEvent(gap=told)).startswith(f"! {line}")


def restarted(tale: Tale) -> chat_pb2.SessionEvent:
    tale.attempt += 1
    after = chat_pb2.Cursor(epoch="e1", offset=1)
    return tale.event(reset=chat_pb2.Reset(discard_after=after, reason="its worker was lost"))


def started(tale: Tale, commander: str) -> chat_pb2.SessionEvent:
    return tale.event(started=chat_pb2.SessionStarted(commander_id=commander))


def test_an_attempt_that_begins_anew_stands_apart_from_the_one_before() -> None:
    tale = Tale()
    page = shown(
        started(tale, "c1"),
        tale.content("void", agent="a"),
        tale.content("half "),
        tale.content("and half", agent="b"),
        restarted(tale),
        started(tale, "c2"),
        tale.content("whole"),
        tale.ended(),
    )
    void, answer = page.split("! ==== all above is void (its worker was lost); the answer follows\n")
    assert void.splitlines() == ["commander c1 takes it", "[a] void", "half ", "[b] and half"]
    assert answer == "commander c2 takes over: attempt 2, as the one before was lost\nwhole\n"


def test_an_attempt_that_goes_on_says_that_what_is_shown_stays() -> None:
    tale = Tale()
    asked = tale.question("Sure?")
    cancelled = agent_pb2.Answer(question_id="q1", cancelled=agent_pb2.AnswerCancelled(why="commander_lost"))
    events = [started(tale, "c1"), tale.content("half "), asked, tale.event(answer=cancelled)]
    tale.attempt = 2
    events += [started(tale, "c2"), tale.content("whole"), tale.ended()]
    assert shown(*events).splitlines() == [
        "commander c1 takes it",
        "half ",
        "? Sure?",
        "= no answer: whoever asked was lost",
        "commander c2 takes over: attempt 2, as the one before was lost; what stands above stays",
        "whole",
    ]


def test_a_reset_takes_the_bar_away() -> None:
    tale = Tale()
    told = tale.event(progress=agent_pb2.Progress(text="reading", percent=50))
    page = shown(told, restarted(tale), tale.content("whole"), tale.ended(), look=LIVE)
    assert page.endswith(
        "\r\x1b[K! ==== all above is void (its worker was lost); the answer follows\nwhole\n"
    )
