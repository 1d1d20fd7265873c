"""How answers to an operator look: tables for people, one JSON object per line for scripts.

Owns columns and wording. Prints to stdout; complaints go to stderr.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.console.escaping import json_line, safe_line, safe_text
from dispatcher.console.terminal import Look, Tone, columns_of, table
from dispatcher.console.view import error_text, percent_of
from dispatcher.record import JsonValue, cursor_text, enum_word, plain, seconds

# Of an agent or a commander, in a table; the JSON has all.
MODELS_SHOWN = 4


def complain(text: str) -> None:
    """A sentence on stderr."""
    sys.stdout.flush()
    print(safe_text(text), file=sys.stderr, flush=True)


def stopped(session_id: str, answer: admin_pb2.StopSessionResponse, *, as_json: bool) -> None:
    if as_json:
        _print_json({"session_id": session_id, **plain(answer)})
    elif answer.result == admin_pb2.STOP_RESULT_ALREADY_ENDED:
        print(safe_line(f"{session_id} had already ended: {answer.ending}"))
    else:
        print(safe_line(f"{session_id} stopped"))


def stopped_matching(answer: admin_pb2.StopSessionsResponse, *, as_json: bool) -> None:
    if as_json:
        _print_json(plain(answer))
        return
    for session_id in answer.session_ids:
        print(safe_line(f"{session_id} stopped"))
    print(_count(answer.stopped, "session") + " stopped")


def sessions(views: Sequence[admin_pb2.SessionView], *, as_json: bool) -> None:
    headings = (
        "SESSION",
        "STATE",
        "AGENT",
        "USER",
        "COMMANDER",
        "ATTEMPT",
        "AGE",
        "CHARACTERS",
        "TOOLS",
        "NOW",
    )
    rows = [
        (
            view.session_id,
            view.state,
            view.agent,
            view.user_id,
            view.commander_id,
            str(view.attempt),
            spoken(seconds(view.age)),
            str(view.content_chars),
            f"{view.tool_calls_running}/{view.tool_calls}",
            _now(view),
        )
        for view in views
    ]
    _listing(headings, rows, views, "no sessions", as_json=as_json)


def _now(view: admin_pb2.SessionView) -> str:
    """What a session is at, in a few words."""
    if view.HasField("ended"):
        return view.ended.name
    if view.open_questions:
        return f"asks: {view.open_questions[0].text}"
    phase = enum_word(agent_pb2.HeartbeatPhase.DESCRIPTOR, view.phase).replace("_", " ")
    progress = percent_of(view.progress)
    words = ["" if phase == "unspecified" else phase, "" if progress is None else f"{progress:.0f} %"]
    return " ".join(filter(None, [*words, view.progress.text]))


def session(view: admin_pb2.SessionView, *, as_json: bool) -> None:
    """All that is known of one session, a line each."""
    if as_json:
        _print_json(plain(view))
        return
    lines = [
        ("session", view.session_id),
        ("state", view.state),
        ("agent", view.agent),
        ("user", view.user_id),
        ("labels", _labels(view.labels)),
        ("commander", view.commander_id),
        ("attempt", str(view.attempt)),
        ("now", _now(view)),
        ("age", spoken(seconds(view.age))),
        ("cursor", cursor_text(view.cursor) if view.HasField("cursor") else ""),
        ("content", _count(view.content_chars, "character")),
        ("thoughts", _count(view.thought_chars, "character")),
        ("tool calls", f"{view.tool_calls}, {view.tool_calls_running} running"),
        ("usage", _usage(view.usage)),
        ("viewers", str(view.viewers)),
        *(("question", _question(question)) for question in view.open_questions),
        *_ending(view),
    ]
    width = max(len(name) for name, _ in lines)
    look = Look.of(sys.stdout, os.environ)
    for name, value in lines:
        if value:
            print(look.paint(name.ljust(width), Tone.DIM) + "  " + safe_line(value))


def _ending(view: admin_pb2.SessionView) -> list[tuple[str, str]]:
    if not view.HasField("ended"):
        return []
    ended = view.ended
    lines = [("ending", f"{ended.name}: {ended.message}" if ended.message else ended.name)]
    if ended.HasField("stop"):
        by = f" by {ended.stop.actor}" if ended.stop.actor else ""
        lines.append(("stop", f"{ended.stop.reason}{by}"))
    if ended.HasField("error"):
        lines.append(("error", error_text(ended.error)))
    return lines


def commanders(views: Sequence[admin_pb2.CommanderView], *, as_json: bool) -> None:
    headings = (
        "COMMANDER",
        "STATE",
        "AGENTS",
        "SLOTS USED",
        "STUCK",
        "CONNECTED",
        "SILENT",
        "BLOCKED",
        "LABELS",
        "MODELS",
        "VERSION",
        "PEER",
    )
    rows = [
        (
            view.commander_id,
            view.state,
            ", ".join(_offer(agent) for agent in view.agents),
            f"{view.slots_taken}/{view.slots}",
            str(view.slots_stuck),
            spoken(seconds(view.connected_for)),
            spoken(seconds(view.silent_for)),
            spoken(seconds(view.blocked_for)) if view.HasField("blocked_for") else "no",
            _labels(view.labels),
            _models(view.models),
            view.software_version,
            view.peer,
        )
        for view in views
    ]
    _listing(headings, rows, views, "no commanders are connected", as_json=as_json)


def agents(listings: Sequence[chat_pb2.AgentListing], *, as_json: bool) -> None:
    headings = ("AGENT", "VERSION", "COMMANDERS", "SLOTS USED", "MODELS", "DESCRIPTION")
    rows = [
        (
            listing.offer.name,
            listing.offer.version,
            str(listing.commanders),
            f"{listing.slots - listing.slots_free}/{listing.slots}",
            _models(listing.models, listing.models_left_out),
            listing.offer.description,
        )
        for listing in listings
    ]
    _listing(headings, rows, listings, "no agents: no commander is connected", as_json=as_json)


def tools(views: Sequence[admin_pb2.ToolView], *, as_json: bool) -> None:
    headings = ("TOOL", "FROM", "RUNNING", "CALLS", "TIMEOUT", "OUTPUT BYTES", "DESCRIPTION")
    rows = [
        (
            view.offer.name,
            view.source,
            "away"
            if view.away
            else "circuit open"
            if view.circuit_open
            else f"{view.running}/{view.concurrency}",
            str(view.calls),
            spoken(seconds(view.timeout)),
            str(view.output_bytes),
            view.offer.description,
        )
        for view in views
    ]
    _listing(headings, rows, views, "no tools", as_json=as_json)


def limits(told: Sequence[admin_pb2.Limit], *, as_json: bool) -> None:
    from dispatcher.limits import MODES  # noqa: PLC0415 - slow, and only this listing needs it

    headings = ("LIMIT", "VALUE", "CHANGEABLE", "MODE", "DESCRIPTION")
    rows = [
        (
            limit.name,
            f"{limit.value:.15g}",
            "yes" if limit.changeable else "no",
            # As it is typed after --mode; a newer dispatcher may have modes that are not known here.
            f"{MODES[limit.name]}={limit.mode}" if limit.mode and limit.name in MODES else limit.mode,
            limit.description,
        )
        for limit in told
    ]
    _listing(headings, rows, told, "no limits", as_json=as_json)


def answered(session_id: str, question_id: str, value_json: str | None, *, as_json: bool) -> None:
    """`value_json` None: declined."""
    if as_json:
        value = None if value_json is None else json.loads(value_json)
        answer = {"declined": value_json is None, "value": value}
        _print_json({"session_id": session_id, "question_id": question_id, **answer})
        return
    how = "declined" if value_json is None else f"answered: {value_json}"
    print(safe_line(f"{session_id} question {question_id} {how}"))


def said(session_id: str, message_id: str, *, as_json: bool) -> None:
    if as_json:
        _print_json({"session_id": session_id, "message_id": message_id})
        return
    print(safe_line(f"{session_id} was told, as message {message_id}"))


def draining(commander: str | None, running: int, *, as_json: bool) -> None:
    if as_json:
        _print_json({"commander_id": commander, "running": running})
        return
    who = f"commander {commander}" if commander else "the dispatcher"
    print(safe_line(f"{who} drains: {_count(running, 'session')} still running"))


def spoken(duration_s: float) -> str:
    """A duration in its two largest units: "0.4s", "12s", "3m12s", "5h03m", "2d04h"."""
    if duration_s < 10:
        return f"{duration_s:.1f}s"
    whole = int(duration_s)
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole % 3_600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3_600:02d}h"


def _listing(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    messages: Sequence[Message],
    none: str,
    *,
    as_json: bool,
) -> None:
    if as_json:
        for message in messages:
            _print_json(plain(message))
        return
    if not rows:
        complain(none)
        return
    look = Look.of(sys.stdout, os.environ)
    # An empty cell would shift the columns for a script that splits at white space.
    safe = [[safe_line(cell) or "-" for cell in row] for row in rows]
    heading, *lines = table(headings, safe, columns_of(sys.stdout), look.glyph("…", "..."))
    print(look.paint(heading, Tone.BOLD))
    for line in lines:
        print(line)


def _print_json(record: JsonValue) -> None:
    print(json_line(record))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def _models(models: Sequence[agent_pb2.ModelOffer], left_out: int = 0) -> str:
    """The first names, each with what it is known to do, and how many more there are: "deep,fast(images,tools),+3"."""
    told = [
        model.name + (f"({','.join(can)})" if (can := _abilities(model)) else "")
        for model in models[:MODELS_SHOWN]
    ]
    more = len(models) - len(told) + left_out
    return ",".join([*told, *([f"+{more}"] if more else [])])


def _abilities(model: agent_pb2.ModelOffer) -> list[str]:
    known = {
        "images": model.takes_images,
        "files": model.takes_files,
        "tools": model.calls_tools,
        "structured": model.structured_output,
        "reasoning": model.shows_reasoning,
    }
    return [word for word, can in known.items() if can]


def _offer(agent: agent_pb2.AgentOffer) -> str:
    return f"{agent.name}@{agent.version}" if agent.version else agent.name


def _usage(usage: agent_pb2.Usage) -> str:
    if not usage.ListFields():
        return ""
    tokens = f"{usage.input_tokens} in, {usage.output_tokens} out, {usage.reasoning_tokens} reasoning"
    return f"{tokens}, {usage.model}" if usage.model else tokens


def _question(question: agent_pb2.Question) -> str:
    options = f" ({' / '.join(question.options)})" if question.options else ""
    return f"{question.question_id}: {question.text}{options}"
