"""The messages that an AG-UI client folds of a run's events; what its verifier refuses fails here."""

from collections.abc import Iterable
from typing import Any

Event = dict[str, Any]


class Run:
    """One run, on top of the messages that the client had."""

    def __init__(self, events: Iterable[Event], messages: Iterable[Event] = ()) -> None:
        self.messages: list[Event] = [dict(each) for each in messages]
        self.customs: list[tuple[str, Event]] = []
        self.subagents: list[tuple[str, str]] = []
        self.last: Event = {}
        self._open: dict[str, Event] = {}
        self._spans: set[str] = set()
        self._speaking: dict[str, str] = {}
        self._over: set[str] = set()
        for number, event in enumerate(events):
            assert (event["type"] == "RUN_STARTED") == (number == 0), event
            assert self.last.get("type") not in ("RUN_FINISHED", "RUN_ERROR"), event
            assert None not in event.values(), event
            self._take(event)
            self.last = event

    def _take(self, event: Event) -> None:
        kind = event["type"]
        word, _, rest = kind.rpartition("_")
        if "subagentRunId" in event and not kind.startswith("SUBAGENT"):
            assert event["subagentRunId"] in self._speaking, event
        if word in ("TEXT_MESSAGE", "REASONING_MESSAGE"):
            self._text(event, rest)
        elif word == "REASONING":
            assert (event["messageId"] in self._spans) == (rest == "END")
            self._spans ^= {event["messageId"]}
        elif word == "TOOL_CALL":
            self._call(event, rest)
        elif kind in ("SUBAGENT_STARTED", "STEP_STARTED"):
            run_id: str = event.get("subagentRunId") or event["stepName"]
            assert run_id not in self._speaking
            assert run_id not in self._over or word == "STEP"
            assert event.get("parentSubagentRunId", run_id) in {*self._speaking, run_id}
            self._speaking[run_id] = event.get("name", run_id)
            self.subagents.append((kind, self._speaking[run_id]))
        elif word in ("SUBAGENT", "STEP"):
            run_id = event.get("subagentRunId") or event["stepName"]
            self.subagents.append((kind, self._speaking.pop(run_id)))
            self._over.add(run_id)
        elif kind == "MESSAGES_SNAPSHOT":
            assert not self._open
            thoughts = [each for each in self.messages if each["role"] == "reasoning"]
            self.messages = [*thoughts, *map(dict, event["messages"])]
        elif kind == "CUSTOM":
            self.customs.append((event["name"], event["value"]))
        elif kind == "RUN_FINISHED":
            still_open = [*self._open, *self._spans, *self._speaking]
            assert not still_open
        else:
            assert kind in ("RUN_STARTED", "RUN_ERROR"), kind

    def _text(self, event: Event, what: str) -> None:
        message_id = event["messageId"]
        if what == "START":
            assert message_id not in self._open
            message = {"id": message_id, "role": event["role"], "content": ""}
            if event.get("subagentRunId"):
                message["name"] = self._speaking[event["subagentRunId"]]
            self._open[message_id] = message
            self.messages.append(message)
        elif what == "CONTENT":
            assert event["delta"]
            self._open[message_id]["content"] += event["delta"]
        else:
            del self._open[message_id]

    def _call(self, event: Event, what: str) -> None:
        call_id = event["toolCallId"]
        if what == "START":
            function = {"name": event["toolCallName"], "arguments": ""}
            self._open[call_id] = function
            call = {"id": call_id, "type": "function", "function": function}
            self.messages.append({"id": call_id, "role": "assistant", "toolCalls": [call]})
        elif what == "ARGS":
            self._open[call_id]["arguments"] += event["delta"]
        elif what == "END":
            del self._open[call_id]
        else:
            asked = [
                at
                for at, each in enumerate(self.messages)
                if call_id in [c["id"] for c in each.get("toolCalls", [])]
            ]
            told = {"role": "tool", "toolCallId": call_id, "content": event["content"]}
            self.messages.insert(asked[0] + 1, {"id": event["messageId"], **told})

    def of(self, role: str) -> list[Event]:
        return [each for each in self.messages if each["role"] == role]

    @property
    def text(self) -> str:
        return "".join(each.get("content", "") for each in self.of("assistant"))

    @property
    def interrupt(self) -> Event:
        """What the run is interrupted for, which must be one thing."""
        assert self.last["type"] == "RUN_FINISHED"
        assert self.last["outcome"]["type"] == "interrupt"
        (interrupt,) = self.last["outcome"]["interrupts"]
        told: Event = interrupt
        return told
