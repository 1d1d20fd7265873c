"""The assistant's message that Vercel's AI SDK folds of the parts of a stream."""

from collections.abc import Iterable
from typing import Any


class Message:
    """What the SDK would choke on fails."""

    def __init__(self, parts: Iterable[dict[str, Any]]) -> None:
        self.id = ""
        self.metadata: dict[str, Any] = {}
        self.parts: list[dict[str, Any]] = []
        self._open: dict[str, dict[str, Any]] = {}
        for part in parts:
            self._take(dict(part))

    def _take(self, part: dict[str, Any]) -> None:
        kind = part.pop("type")
        kept = {key: value for key, value in part.items() if key == "providerMetadata"}
        self.metadata |= part.get("messageMetadata", {})
        word, _, rest = kind.partition("-")
        if kind == "start":
            self.id = part["messageId"]
        elif kind == "reset-step":
            at = max(i for i, each in enumerate(self.parts) if each["type"] == "start-step")
            del self.parts[at + 1 :]
            self._open.clear()
        elif word in ("text", "reasoning") and rest == "start":
            assert part["id"] not in self._open
            self._open[part["id"]] = {"type": word, "text": "", **kept}
            self.parts.append(self._open[part["id"]])
        elif word in ("text", "reasoning") and rest == "delta":
            self._open[part["id"]]["text"] += part["delta"]
        elif word in ("text", "reasoning"):
            del self._open[part["id"]]
        elif kind.startswith("tool-output"):
            call = next(each for each in self.parts if each.get("toolCallId") == part["toolCallId"])
            call |= part
        elif kind.startswith("data-"):
            if part.get("transient"):
                return
            there = [each for each in self.parts if (each["type"], each.get("id")) == (kind, part["id"])]
            if there:
                there[0]["data"] = part["data"]
            else:
                self.parts.append({"type": kind, **part})
        elif kind in ("start-step", "tool-input-available", "file", "steering-message"):
            self.parts.append({"type": kind, **part})
        else:
            assert kind in ("finish-step", "finish", "message-metadata", "abort", "error"), kind

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [part for part in self.parts if part["type"] == kind]
