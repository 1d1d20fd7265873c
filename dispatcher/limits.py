"""The settings that operators may change while the dispatcher runs, and who must hear of it."""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from dispatcher.core.limits import Limits
from dispatcher.core.policy import Mode, PolicyLimits
from dispatcher.core.rules import RuleBook
from dispatcher.settings import Loaded, Settings, SettingsError, change


class LimitView(NamedTuple):
    """A number in settings, as an operator sees it. `mode` is set for limits that are policies."""

    name: str
    value: float
    changeable: bool
    description: str
    mode: str


# Limits that are policies, with the setting that holds their mode: the command line tells of both.
MODES: Mapping[str, str] = {
    "content_chars_max": "content_mode",
    "thought_chars_max": "thought_mode",
    "tool_calls_max": "tool_calls_mode",
    "repeated_calls_max": "repeated_calls_mode",
    "session_cost_dollars_max": "session_cost_mode",
    "user_cost_dollars_max": "user_cost_mode",
    "output_tokens_max": "output_tokens_mode",
    "total_time_s": "total_time_mode",
    "first_token_s": "first_token_mode",
    "deny_hold_chars_max": "deny_mode",
    "deny_speakers_max": "deny_mode",
}


# What is done about a model without a price.
_UNPRICED: Mapping[str, Mode | None] = {"free": None, "observe": Mode.OBSERVE, "error": Mode.ENFORCE}


class LiveLimits:
    """Settings as they are now. `changed` is called with the new ones after each change."""

    def __init__(self, loaded: Loaded, changed: Callable[[Settings], None]) -> None:
        self._loaded = loaded
        self._changed = changed

    @property
    def settings(self) -> Settings:
        return self._loaded.settings

    def view(self) -> list[LimitView]:
        settings = self._loaded.settings
        views = []
        for name, field in Settings.model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            mode = str(getattr(settings, MODES[name])) if name in MODES else ""
            views.append(
                LimitView(name, float(value), bool(extra.get("changeable")), field.description or "", mode)
            )
        return views

    def change(self, values: Mapping[str, float], modes: Mapping[str, str]) -> None:
        """Changes all that is named, or nothing. Raises SettingsError with every problem there is."""
        changes: dict[str, float | str] = dict(values)
        changes |= {_mode_of(name): mode for name, mode in modes.items()}
        loaded = change(self._loaded, changes)
        self._loaded = loaded
        self._changed(loaded.settings)


def _mode_of(name: str) -> str:
    """The setting that holds the mode of a limit; a mode's own name, whole or without its last word, will do."""
    known = set(MODES.values())
    for meant in (MODES.get(name, ""), name, f"{name}_mode"):
        if meant in known:
            return meant
    there = (f"{mode} (of {', '.join(_limits_of(mode))})" for mode in sorted(known))
    raise SettingsError(f"{name}: has no mode; these are there: {', '.join(there)}")


def _limits_of(mode: str) -> list[str]:
    return sorted(name for name, its_mode in MODES.items() if its_mode == mode)


def core_limits(settings: Settings, rules: RuleBook | None, told_bytes: int = 0) -> Limits:
    """The core's numbers, from settings, and what text is judged by; `told_bytes` is what a
    Start holds besides what was asked and what was published, which all have to fit one message."""
    s = settings
    room_bytes = s.max_message_bytes - s.request_bytes_max - told_bytes
    return Limits(
        sessions_max=s.sessions_max,
        queue_sessions_max=s.queue_sessions_max,
        queue_wait_s=s.queue_wait_s,
        sessions_per_minute_max=s.sessions_per_minute_max,
        user_sessions_max=s.user_sessions_max,
        user_queue_sessions_max=s.user_queue_sessions_max,
        user_sessions_per_minute_max=s.user_sessions_per_minute_max,
        max_message_bytes=s.max_message_bytes,
        credit_packets=s.credit_packets,
        credit_bytes=s.credit_bytes,
        ack_interval_s=s.ack_interval_s,
        heartbeat_interval_s=s.heartbeat_interval_s,
        heartbeats_missed=s.heartbeats_missed,
        detach_grace_s=s.detach_grace_s,
        attempts_max=s.attempts_max,
        restart_backoff_s=s.restart_backoff_s,
        restart_backoff_max_s=s.restart_backoff_max_s,
        published_bytes_max=max(0, min(s.published_bytes_max, room_bytes)),
        stop_grace_s=s.stop_grace_s,
        stop_received_s=s.stop_received_s,
        messages_waiting_max=s.messages_waiting_max,
        questions_open_max=s.questions_open_max,
        question_wait_s=s.question_wait_s,
        park_after_s=s.park_after_s,
        review_chars_max=s.review_chars_max,
        session_tools_running_max=s.session_tools_running_max,
        delegation_levels_max=s.delegation_levels_max,
        delegated_answer_bytes_max=s.delegated_answer_bytes_max,
        journal_session_bytes=s.journal_session_bytes,
        journal_bytes=s.journal_bytes,
        user_journal_bytes=s.user_journal_bytes,
        journal_keep_s=s.journal_keep_s,
        journal_keep_sessions=s.journal_keep_sessions,
        journal_full_wait_s=s.journal_full_wait_s,
        policy=PolicyLimits(
            content_chars_max=s.content_chars_max,
            content_chars_mode=Mode(s.content_mode),
            thought_chars_max=s.thought_chars_max,
            thought_chars_mode=Mode(s.thought_mode),
            tool_calls_max=s.tool_calls_max,
            tool_calls_mode=Mode(s.tool_calls_mode),
            total_time_s=s.total_time_s,
            total_time_mode=Mode(s.total_time_mode),
            first_token_s=s.first_token_s,
            first_token_mode=Mode(s.first_token_mode),
            session_cost_dollars_max=s.session_cost_dollars_max or inf,
            session_cost_mode=Mode(s.session_cost_mode),
            user_cost_dollars_max=s.user_cost_dollars_max or inf,
            user_cost_window_s=s.user_cost_window_s,
            user_cost_mode=Mode(s.user_cost_mode),
            unpriced_mode=_UNPRICED[s.unpriced_models],
            repeated_calls_max=s.repeated_calls_max,
            repeated_calls_mode=Mode(s.repeated_calls_mode),
            output_tokens_max=s.output_tokens_max,
            output_tokens_mode=Mode(s.output_tokens_mode),
            deny_hold_chars_max=s.deny_hold_chars_max,
            deny_speakers_max=s.deny_speakers_max,
            rules=rules,
        ),
    )
