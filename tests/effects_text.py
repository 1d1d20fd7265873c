"""Effects as lines of a transcript: one each, or one for every event that is kept. Logs and measures have none.

What is as usual is left out: the credit of a Start that is the limits', lengths and ids that are empty.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from dispatcher.core import events
from dispatcher.core.events import Effect
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    Ack,
    AgentTold,
    Answer,
    Drain,
    Ended,
    Goodbye,
    LinkHeartbeat,
    Opened,
    Published,
    Reset,
    SessionEvent,
    Signal,
    Start,
    Started,
    Stop,
    ToolCall,
    ToolOutcome,
    ToolResult,
    UserMessage,
    Verdict,
    Welcome,
)


def effect_lines(effect: Effect, limits: Limits) -> list[str]:
    """The lines of one effect, without what marks them."""
    if isinstance(effect, events.Append):
        return [f"append {effect.session_id} {_event(event)}" for event in effect.events]
    if isinstance(effect, events.Send):
        urgent = "!" if effect.urgent else ""
        return [f"send{urgent} {effect.link_id} {_signal(effect.signal, limits)}"]
    return [line] if (line := _LINES[type(effect)](effect)) else []


def _words(*words: object, **named: object) -> str:
    """Words that are set, and settings that are, by name."""
    plain = [str(word) for word in words if word not in ("", None)]
    return " ".join(
        [*plain, *(f"{name}={value}" for name, value in named.items() if value not in ("", None, 0, {}))]
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _outcome(outcome: ToolOutcome) -> str:
    code = outcome.failure.code if outcome.failure else ""
    return _words(outcome.result_json, failure=code, told=outcome.told_json)


def _pairs(pairs: Any) -> str:
    return ",".join(f"{key}:{value}" for key, value in pairs.items())


def _call(call: ToolCall) -> str:
    return _words(
        call.tool_name,
        call.arguments_json,
        id=call.call_id,
        key=call.idempotency_key,
        timeout_ms=call.timeout_ms,
        to_agent="yes" if call.to_agent else "",
        of=call.session_id,
    )


# --- what is kept ----------------------------------------------------------------------------------------


def _event(event: SessionEvent) -> str:
    body = event.body
    if event.kind == "content":
        said = _quoted(event.text)
    elif event.kind == "thought":
        said = f"{body} {_quoted(event.text)}"
    else:
        said = _BODIES[type(body)](body) if type(body) in _BODIES else ""
    return _words(event.offset, event.kind, said, path=event.agent)


def _ended(ended: Ended) -> str:
    return _words(
        ended.ending,
        _quoted(ended.message),
        chars=ended.content_chars,
        crc=f"{ended.content_crc32:08x}" if ended.content_chars else "",
        tokens=ended.usage.output_tokens,
        stop=ended.stop.stop_id if ended.stop else "",
        policy=ended.stop.policy if ended.stop else "",
        error=ended.error.code if ended.error else "",
        unread=",".join(ended.unread),
    )


_BODIES: Final[dict[type[Any], Callable[[Any], str]]] = {
    AgentTold: lambda told: _words(
        told.kind, _quoted(told.text) if told.text else "", error=told.error.code if told.error else ""
    ),
    Opened: lambda opened: _words(
        opened.agent, user=opened.user_id, labels=_pairs(opened.labels), parent=opened.parent_session_id
    ),
    Started: lambda started: started.commander_id,
    Reset: lambda reset: f"discard_after={reset.discard_after}",
    ToolCall: _call,
    ToolResult: lambda result: _words(result.call_id, _outcome(result.outcome), of=result.session_id),
    Answer: lambda answer: _words(answer.question_id, answer.value_json, why=answer.why),
    UserMessage: lambda message: _words(message.message_id, _quoted(message.text)),
    Ended: _ended,
}


# --- what goes down --------------------------------------------------------------------------------------


def _signal(signal: Signal, limits: Limits) -> str:
    who = _words(signal.session_id)
    if signal.attempt:
        who += f"/{signal.attempt}"
    if signal.sequence:
        who += f"#{signal.sequence}"
    body = signal.body
    if isinstance(body, Start):
        usual = (body.credit, body.credit_bytes) == (limits.credit_packets, limits.credit_bytes)
        return _words(
            who,
            "start",
            body.agent,
            version=body.agent_version,
            user=body.user_id,
            time_left_s=None if body.time_left_s is None else f"{body.time_left_s:g}",
            credit="" if usual else f"{body.credit}/{body.credit_bytes}",
            published="" if body.published is None else _published(body.published),
            id_prefix=body.id_prefix,
        )
    return _words(who, _SIGNALS[type(body)](body))


def _published(published: Published) -> str:
    calls = (
        f"{call.request.call_id}:{_outcome(call.outcome) if call.outcome else 'unanswered'}"
        for call in published.calls
    )
    messages = (message.message_id for message in published.messages)
    answers = (
        f"{each.answer.question_id}:{each.answer.value_json or each.answer.why}" for each in published.answers
    )
    parked = ("parked",) if published.parked else ()
    return " ".join((_quoted(published.content), *calls, *messages, *answers, *parked))


def _stop(stop: Stop) -> str:
    return _words(
        "stop",
        stop.stop_id,
        stop.code,
        _quoted(stop.reason),
        grace_ms=stop.grace_ms,
        actor=stop.actor,
        policy=stop.policy,
    )


def _welcome(welcome: Welcome) -> str:
    return _words("welcome", *map(_verdict, welcome.verdicts))


def _verdict(verdict: Verdict) -> str:
    who = f"{verdict.session_id}/{verdict.attempt}"
    if verdict.kind == "resumed":
        return f"{who}:resumed#{verdict.next_sequence},credit={verdict.credit}/{verdict.credit_bytes}"
    return f"{who}:{verdict.kind}" + (f"({verdict.why})" if verdict.why else "")


_SIGNALS: Final[dict[type[Any], Callable[[Any], str]]] = {
    Ack: lambda ack: f"ack {ack.sequence} credit={ack.credit}/{ack.credit_bytes}",
    Stop: _stop,
    ToolResult: lambda result: _words("tool_result", result.call_id, _outcome(result.outcome)),
    Answer: lambda answer: _words("answer", answer.question_id, answer.value_json, why=answer.why),
    UserMessage: lambda message: _words("user_message", message.message_id, _quoted(message.text)),
    Drain: lambda drain: _words("drain", _quoted(drain.reason), deadline_s=drain.deadline_s),
    Welcome: _welcome,
    Goodbye: lambda goodbye: _words("goodbye", _quoted(goodbye.reason)),
    LinkHeartbeat: lambda heartbeat: "heartbeat",
}


# --- everything else -------------------------------------------------------------------------------------


def _run_tool(run: events.RunTool) -> str:
    return _words(
        f"run_tool {run.session_id}/{run.attempt}",
        _call(run.call),
        path=run.agent,
        user=run.user_id,
        approved="yes" if run.is_approved else "",
    )


def _stopped(stopped: events.Stopped) -> str:
    already = "already_ended" if stopped.already_ended else ""
    return _words("stopped", stopped.session_id, stopped.ending, already, stop=stopped.stop_id)


def _judge_text(judge: events.JudgeText) -> str:
    return _words(
        f"judge {judge.session_id}/{judge.attempt}",
        judge.review_id,
        judge.kind,
        _quoted(judge.text),
        before=_quoted(judge.before) if judge.before else "",
        of=judge.agent,
        tool=judge.tool_name,
        final="yes" if judge.is_final else "",
    )


_LINES: Final[dict[type[Any], Callable[[Any], str]]] = {
    # Told by the event that goes with it.
    events.Open: lambda effect: "",
    events.Remember: lambda effect: _words("remember", effect.commander_id, "" if effect.hello else "gone"),
    # Told by the event that goes with it.
    events.Open: lambda effect: "",
    events.Remember: lambda effect: _words("remember", effect.commander_id, "" if effect.hello else "gone"),
    events.RunTool: _run_tool,
    events.CancelTools: lambda cancel: f"cancel_tools {cancel.session_id}/{cancel.attempt}",
    events.CancelTool: lambda cancel: f"cancel_tool {cancel.session_id}/{cancel.attempt} {cancel.call_id}",
    events.JudgeText: _judge_text,
    events.CloseLink: lambda close: _words("close", close.link_id, close.status, _quoted(close.message)),
    events.Forget: lambda forget: f"forget {forget.session_id}",
    events.Leave: lambda leave: "leave",
    events.Count: lambda count: _words("count", count.metric, *count.labels),
    events.Measure: lambda measure: "",
    events.Log: lambda log: "",
    events.Audit: lambda audit: "",
    events.Accepted: lambda reply: _words("accepted", reply.session_id, "joined" if reply.joined else ""),
    events.Declined: lambda reply: _words(
        "declined", reply.code, _quoted(reply.message), retry_after_s=reply.retry_after_s
    ),
    events.Stopped: _stopped,
    events.StoppedMany: lambda reply: _words("stopped_many", *reply.session_ids),
    events.Draining: lambda reply: f"draining {reply.running}",
}
