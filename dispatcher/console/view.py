"""A session's events for a person: on a terminal as they come, elsewhere as plain lines.

Owns how each kind of event looks, and whose turn on the page it is when several agents speak at once. Every
text of an event goes through `escaping` here. Knows nothing of gRPC calls or of the keyboard.
"""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TextIO

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.escaping import json_line, safe_line, safe_text
from dispatcher.console.speakers import Speakers
from dispatcher.console.terminal import Look, Page, Tone, cut
from dispatcher.record import cursor_text, enum_word, event_record

NAME_CELLS = 40
BAR_CELLS = 24
# How a line begins that makes void what was shown before it.
RESET_MARK = "! ===="
# What lies between what was asked for and what is to be had, by the gap's reason.
_GAPS = {
    "trimmed": "the part behind {requested} is no longer kept",
    "other_epoch": "{requested} is of another life of the dispatcher, which was started again without what it had kept",
    "ahead": "there is no event {requested}: the dispatcher has lost its last ones, or there never was one",
    "forgotten": "the session is not kept",
}


class View(Protocol):
    """What shows a session. `flush` follows each batch of events; `close` comes last."""

    def show(self, event: chat_pb2.SessionEvent) -> None: ...

    def notice(self, text: str) -> None:
        """Something that the program itself has to say. Goes to stderr."""

    def prompt(self, question: agent_pb2.Question | None, again: bool) -> None:
        """The question that what is typed now would answer; `again` when it was shown a while ago."""

    def echoed(self) -> None:
        """A line was typed."""

    def disturb(self) -> None:
        """The terminal has shown something else, such as `^C`."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


def view_of(stream: TextIO, notices: TextIO, environ: Mapping[str, str], *, as_json: bool) -> View:
    """The view that fits what `stream` is."""
    if as_json:
        return JsonView(stream, notices)
    return PageView(Page(stream, Look.of(stream, environ)), notices)


class JsonView:
    """One JSON object per event per line, each written out at once."""

    def __init__(self, stream: TextIO, notices: TextIO) -> None:
        self._stream = stream
        self._notices = notices

    def show(self, event: chat_pb2.SessionEvent) -> None:
        self._stream.write(json_line(event_record(event)) + "\n")
        self._stream.flush()

    def notice(self, text: str) -> None:
        print(safe_text(text), file=self._notices, flush=True)

    def prompt(self, question: agent_pb2.Question | None, again: bool) -> None:
        """Scripts see the question itself."""

    def echoed(self) -> None: ...

    def disturb(self) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class PageView:
    """Events as text on a page."""

    def __init__(self, page: Page, notices: TextIO) -> None:
        self._page = page
        self._look = page.look
        self._notices = notices
        self._speakers = Speakers(page)
        self._last_progress = ""
        self._last_kinds: dict[str, str] = {}  # by speaker
        self._artifact_bytes: dict[tuple[str, str], int] = {}
        self._reset_for = 0  # the attempt that the last reset made room for
        self._kinds: dict[str, Callable[[chat_pb2.SessionEvent], None]] = {
            "opened": self._opened,
            "started": self._started,
            "thought": self._thought,
            "content": self._content,
            "tool_call": self._tool_call,
            "tool_result": self._tool_result,
            "progress": self._progress,
            "question": self._question,
            "answer": self._answer,
            "agent_event": self._agent_event,
            "artifact": self._artifact,
            "embedding": self._embedding,
            "usage": _nothing,  # told in the ending
            "error": self._error,
            "reset": self._reset,
            "gap": self._gap,
            "user_message": self._user_message,
            "ended": self._ended,
        }

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of event that it can show."""
        return frozenset(self._kinds)

    def show(self, event: chat_pb2.SessionEvent) -> None:
        kind = event.WhichOneof("event") or ""
        self._kinds.get(kind, _nothing)(event)
        self._last_kinds[event.agent] = kind

    def notice(self, text: str) -> None:
        self._page.clear()
        print(safe_text(text), file=self._notices, flush=True)
        self._page.flush()

    def prompt(self, question: agent_pb2.Question | None, again: bool) -> None:
        if question is None:
            self._page.prompt("")
            return
        if again:
            self._ask("", question)
        hint = "number or text" if question.options else "JSON" if question.response_schema_json else "answer"
        self._page.prompt(f"  {hint} (Ctrl-D declines) {self._look.glyph('›', '>')} ")

    def echoed(self) -> None:
        self._page.echoed()

    def disturb(self) -> None:
        self._page.disturb()

    def flush(self) -> None:
        self._page.flush()

    def close(self) -> None:
        self._speakers.end()
        self._page.close()

    # What each kind of event looks like, in the order of their life.

    def _opened(self, event: chat_pb2.SessionEvent) -> None:
        agent = f", agent {_name(event.opened.agent)}" if event.opened.agent else ""
        self._mark(event, f"session {safe_line(event.session_id)}{agent}", Tone.DIM)

    def _started(self, event: chat_pb2.SessionEvent) -> None:
        commander = f"commander {_name(event.started.commander_id)}"
        if event.attempt <= 1:
            self._mark(event, f"{commander} takes it", Tone.DIM)
            return
        # Where no reset came with it, its agent goes on from what viewers have.
        stays = "" if self._reset_for == event.attempt else "; what stands above stays"
        self._mark(
            event,
            f"{commander} takes over: attempt {event.attempt}, as the one before was lost{stays}",
            Tone.DIM,
        )

    def _thought(self, event: chat_pb2.SessionEvent) -> None:
        step = _name(event.thought.step_name) or "thought"
        prefix = f"{_path(event)}{step} {self._look.glyph('│', '|')} "
        self._speakers.speak(event.agent, prefix, safe_text(event.thought.delta), Tone.DIM)

    def _content(self, event: chat_pb2.SessionEvent) -> None:
        self._speakers.speak(event.agent, _path(event), safe_text(event.content.text), Tone.PLAIN)

    def _tool_call(self, event: chat_pb2.SessionEvent) -> None:
        call = event.tool_call
        arrow = self._look.glyph("→", "->")
        self._short(event, f"{arrow} {_name(call.tool_name)} {safe_line(call.arguments_json)}", Tone.BOLD)

    def _tool_result(self, event: chat_pb2.SessionEvent) -> None:
        result = event.tool_result
        arrow = self._look.glyph("←", "<-")
        if result.HasField("error"):
            code = enum_word(agent_pb2.ToolErrorCode.DESCRIPTOR, result.error.code)
            how = "failed" if code in ("failed", "unspecified") else f"failed, {code}"
            text = f"{arrow} {_name(result.tool_name)} {_phrase(how, result.error.message)}"
            self._short(event, text, Tone.BAD)
        else:
            self._short(
                event, f"{arrow} {_name(result.tool_name)} {safe_line(result.result_json)}", Tone.BOLD
            )

    def _progress(self, event: chat_pb2.SessionEvent) -> None:
        progress = event.progress
        percent = percent_of(progress)
        text = safe_line(progress.text)
        # An agent that tells its progress with every token must not get a line for every token. Only the second
        # in a row says that it works instead of writing, and may break what it writes.
        writing = self._speakers.writes(event.agent) and self._last_kinds.get(event.agent) != "progress"
        if self._look.live:
            if not writing:
                self._speakers.pause(event.agent)
            self._page.bar(self._short_text(event, self._bar(text, percent)))
            return
        if writing:
            return
        line = "progress: " + " ".join(filter(None, [text, "" if percent is None else f"{percent:.0f} %"]))
        if line != self._last_progress:
            self._last_progress = line
            self._short(event, line, Tone.PLAIN)

    def _bar(self, text: str, percent: float | None) -> str:
        if percent is None:
            return f"{self._look.glyph('…', '...')} {text}"
        full = round(BAR_CELLS * percent / 100)
        bar = self._look.glyph("█", "#") * full + self._look.glyph("░", "-") * (BAR_CELLS - full)
        return f"{bar} {percent:3.0f} % {text}"

    def _question(self, event: chat_pb2.SessionEvent) -> None:
        self._speakers.pause(event.agent)
        self._ask(_path(event), event.question)

    def _ask(self, path: str, question: agent_pb2.Question) -> None:
        self._page.line(f"{path}? {safe_line(question.text)}", Tone.ASKING)
        for number, option in enumerate(question.options, start=1):
            self._page.line(f"  {number}. {safe_line(option)}", Tone.ASKING)
        if question.approves_call_id:
            self._page.line("  or other arguments, as JSON; or deny and a reason", Tone.ASKING)
        elif question.response_schema_json and not question.options:
            schema = f"  as JSON that fits {safe_line(question.response_schema_json)}"
            self._page.line(self._fitting(schema), Tone.ASKING)

    def _answer(self, event: chat_pb2.SessionEvent) -> None:
        answer = event.answer
        if answer.WhichOneof("result") == "cancelled":
            why = answer.cancelled.why
            why = "whoever asked was lost" if why == "commander_lost" else _name(why) or "cancelled"
            self._short(event, f"= no answer: {why}", Tone.ASKING)
        else:
            self._short(event, f"= {safe_line(answer.value_json)}", Tone.ASKING)

    def _agent_event(self, event: chat_pb2.SessionEvent) -> None:
        of = event.agent_event
        kind = of.WhichOneof("event")
        if kind == "started":
            self._short(event, _phrase("started", of.started.description), Tone.DIM)
        elif kind == "completed":
            self._short(event, _phrase("completed", of.completed.summary), Tone.DIM)
        elif kind == "failed":
            self._short(event, _phrase("failed", error_text(of.failed.error)), Tone.BAD)

    def _artifact(self, event: chat_pb2.SessionEvent) -> None:
        artifact = event.artifact
        key = (event.agent, artifact.artifact_id)
        size = self._artifact_bytes.pop(key, 0) + len(artifact.data)
        if artifact.is_last:
            kind = _name(artifact.mime_type) or "unknown type"
            self._short(event, f"* artifact {_name(artifact.name)} ({kind}, {size:,} bytes)", Tone.PLAIN)
        else:
            self._artifact_bytes[key] = size

    def _embedding(self, event: chat_pb2.SessionEvent) -> None:
        embedding = event.embedding
        self._short(
            event, f"* embedding {_name(embedding.name)} ({len(embedding.values)} values)", Tone.PLAIN
        )

    def _error(self, event: chat_pb2.SessionEvent) -> None:
        self._short(event, f"! {error_text(event.error)}", Tone.BAD)

    def _reset(self, event: chat_pb2.SessionEvent) -> None:
        self._begin_anew()
        self._reset_for = event.attempt
        after = event.reset.discard_after
        # Behind the first event, which says what was asked, there is all of the answer.
        void = "all above" if after.offset <= 1 else f"all above behind event {safe_line(cursor_text(after))}"
        why = f" ({safe_line(event.reset.reason)})" if event.reset.reason else ""
        # One line by which the void part is told from the answer also where it was written to a file already.
        self._page.line(f"{RESET_MARK} {void} is void{why}; the answer follows", Tone.BAD)

    def _gap(self, event: chat_pb2.SessionEvent) -> None:
        self._begin_anew()
        self._page.line(f"! {gap_text(event.gap)}", Tone.BAD)

    def _begin_anew(self) -> None:
        """Nobody is in the midst of anything any more."""
        self._artifact_bytes.clear()
        self._last_kinds.clear()
        self._last_progress = ""
        self._speakers.end()
        self._page.bar("")

    def _user_message(self, event: chat_pb2.SessionEvent) -> None:
        self._short(event, f"+ {safe_line(event.user_message.text)}", Tone.ASKING)

    def _ended(self, event: chat_pb2.SessionEvent) -> None:
        self._speakers.end()
        self._page.end_line()
        self._page.bar("")
        self._page.prompt("")

    def _mark(self, event: chat_pb2.SessionEvent, text: str, tone: Tone) -> None:
        self._speakers.mark(event.agent, f"{_path(event)}{text}", tone)

    def _short(self, event: chat_pb2.SessionEvent, text: str, tone: Tone) -> None:
        self._speakers.mark(event.agent, self._short_text(event, text), tone)

    def _short_text(self, event: chat_pb2.SessionEvent, text: str) -> str:
        return self._fitting(_path(event) + text)

    def _fitting(self, line: str) -> str:
        """Cut to the terminal's width; elsewhere whoever reads wants all of it."""
        columns = self._page.columns
        return line if columns is None else cut(line, columns, self._look.glyph("…", "..."))


def percent_of(progress: agent_pb2.Progress) -> float | None:
    """0 to 100, or None where neither the percentage nor both of its terms make sense."""
    if progress.HasField("percent"):
        percent = progress.percent
    elif progress.HasField("current") and progress.HasField("total") and progress.total > 0:
        percent = 100 * progress.current / progress.total
    else:
        return None
    return None if math.isnan(percent) else min(max(percent, 0.0), 100.0)


def gap_text(gap: chat_pb2.Gap) -> str:
    """What of a session is not to be had, why, and what is."""
    requested = safe_line(cursor_text(gap.requested)) if gap.requested.offset else "what was asked for"
    said = _GAPS.get(gap.reason, _phrase("part of the session is not to be had", gap.reason))
    first = gap.available_from
    if not first.offset:
        rest = "nothing of it is to be had"
    elif first.offset == 1:
        rest = "all that is kept follows, from its first event on, in place of what is shown above"
    else:
        rest = f"what follows begins with event {safe_line(cursor_text(first))}"
    return f"{said.replace('{requested}', requested)}; {rest}"


def error_text(error: agent_pb2.ErrorSignal) -> str:
    """Code, origin and message of an error, on one line."""
    origin = enum_word(agent_pb2.ErrorOrigin.DESCRIPTOR, error.origin)
    where = "" if origin == "unspecified" else f" ({origin})"
    return _phrase(f"{_name(error.code) or 'error'}{where}", error.message)


def _phrase(what: str, more: str) -> str:
    return f"{what}: {safe_line(more)}" if more else what


def _name(text: str) -> str:
    return cut(safe_line(text), NAME_CELLS, "...")


def _path(event: chat_pb2.SessionEvent) -> str:
    return f"[{_name(event.agent)}] " if event.agent else ""


def _nothing(event: chat_pb2.SessionEvent) -> None:
    """What is not for people, or from a later version of the contract."""
