"""Who may call a tool, how often, and whether it really runs: the rules of the settings' tables `[tool.NAME]`.

Reads no clock; `runner.py` asks before a call runs. What a rule refuses has not run.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Final

from dispatcher.tables import ToolTable
from dispatcher.tools.contract import Approval, ToolDenied, ToolError, ToolRequest

MINUTE_S: Final = 60.0


class Rules:
    """All of them, by the tool's name. A tool without one may be called by everybody, as often as there are places."""

    def __init__(self, tables: Mapping[str, ToolTable] | None = None) -> None:
        self._tables = dict(tables or {})
        # Calls that each may still make now, and when that was so.
        self._left: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<Rules for {', '.join(self._tables) or 'no tool'}>"

    @property
    def names(self) -> frozenset[str]:
        """The tools that there are rules for."""
        return frozenset(self._tables)

    def require_may(self, request: ToolRequest) -> None:
        """Raises ToolDenied where this agent or this user may not. Says no more than that: it is read by a model."""
        table = self._tables.get(request.tool_name)
        if table is None:
            return
        if table.agents is not None and request.session_agent not in table.agents:
            raise ToolDenied("this agent may not call it")
        if table.users is not None and request.user_id not in table.users:
            raise ToolDenied("this user may not have it called")

    def is_dry(self, tool_name: str) -> bool:
        """Calls are answered without being run."""
        table = self._tables.get(tool_name)
        return table is not None and table.dry_run

    def approval(self, request: ToolRequest, schema_json: str) -> Approval | None:
        """What is to come before the call, where somebody has to allow it who has not been asked yet."""
        table = self._tables.get(request.tool_name)
        if table is None or not table.ask or request.is_approved:
            return None
        return Approval(schema_json, table.ask_s)

    def told(self, tool_name: str, result_json: str) -> str:
        """What the agent is told of a result, as JSON; empty: all of it."""
        table = self._tables.get(tool_name)
        most = table.told_chars_max if table is not None else None
        if most is None or len(result_json) <= most:
            return ""
        # Of a text its own words, of anything else what its JSON begins with.
        text = json.loads(result_json) if result_json.startswith('"') else result_json
        if len(text) <= most:
            return ""
        begin = text[:most].encode("utf-8", "replace").decode("utf-8")
        return json.dumps({"begin": begin, "chars": len(text), "shortened": True}, ensure_ascii=False)

    def spend(self, tool_name: str, now: float) -> None:
        """Counts a call. Raises ToolError where there were too many in the last minute; that one does not count."""
        table = self._tables.get(tool_name)
        if table is None or table.calls_per_minute_max is None:
            return
        most = float(table.calls_per_minute_max)
        left, then = self._left.get(tool_name, (most, now))
        left = min(most, left + (now - then) * most / MINUTE_S)
        if left < 1:
            retry_s = (1 - left) * MINUTE_S / most
            raise ToolError(
                f"it may be called {table.calls_per_minute_max} times a minute; nothing ran: "
                f"try again in {retry_s:.1f} s",
                retryable=True,
                retry_after_s=retry_s,
            )
        self._left[tool_name] = (left - 1, now)

    @contextlib.contextmanager
    def spending(self, tool_name: str, now: float) -> Iterator[None]:
        """As `spend`; a call that is refused in the block, for want of a place perhaps, does not count."""
        self.spend(tool_name, now)
        try:
            yield
        except BaseException:
            if tool_name in self._left:
                left, then = self._left[tool_name]
                self._left[tool_name] = (left + 1, then)
            raise
