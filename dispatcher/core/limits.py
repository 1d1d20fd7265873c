"""The numbers the core is bounded by. `serve.py` makes them from settings; `SetLimits` replaces them whole."""

from dataclasses import dataclass, field

from dispatcher.core.policy import PolicyLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Units are last in the names; what each is for is said in `settings.py`, field by field."""

    sessions_max: int = 10_000
    queue_sessions_max: int = 1_000
    queue_wait_s: float = 30.0
    sessions_per_minute_max: int = 60_000
    user_sessions_max: int = 1_000
    user_queue_sessions_max: int = 100
    user_sessions_per_minute_max: int = 1_200
    max_message_bytes: int = 1_048_576
    credit_packets: int = 64
    credit_bytes: int = 262_144
    ack_interval_s: float = 0.2
    heartbeat_interval_s: float = 2.0
    heartbeats_missed: int = 3
    detach_grace_s: float = 10.0
    attempts_max: int = 3
    restart_backoff_s: float = 1.0
    restart_backoff_max_s: float = 30.0
    published_bytes_max: int = 262_144
    stop_grace_s: float = 5.0
    stop_received_s: float = 2.0
    messages_waiting_max: int = 32
    questions_open_max: int = 16
    question_wait_s: float = 3_600.0
    park_after_s: float = 5.0
    review_chars_max: int = 65_536
    session_tools_running_max: int = 16
    delegation_levels_max: int = 4
    delegated_answer_bytes_max: int = 262_144
    journal_session_bytes: int = 67_108_864
    journal_bytes: int = 536_870_912
    user_journal_bytes: int = 268_435_456
    journal_keep_s: float = 600.0
    journal_keep_sessions: int = 10_000
    journal_full_wait_s: float = 60.0
    policy: PolicyLimits = field(default_factory=PolicyLimits)
