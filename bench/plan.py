"""How much is measured: rounds, seconds and sizes. The whole run takes some ten minutes; the quick one takes a minute
or two, and says only whether something is badly wrong."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """A round is one A and one B. Times are of one load, seconds."""

    # The whole run may take so long; a measurement that begins later is left out, and that is said.
    bound_s: float
    # A single measurement that takes longer is given up.
    measurement_s: float
    rounds: int
    flood_s: float
    flood_sessions: tuple[int, ...]
    # Paced and crowd: longer than what their percentiles leave out of a load, which is 0.6 s.
    pace_s: float
    pace_sessions: int
    crowd_rounds: int
    crowd_s: float
    crowd_sessions: int
    crowd_processes: int
    wait_s: float
    wait_sessions: tuple[int, ...]
    # With one session at a time the load is repeated, so that there are some finishes and stops.
    wait_alone: int
    stops: int
    stop_busy: tuple[int, ...]
    journal_sessions: tuple[int, ...]
    # Paced and stops; flooded as many as above.
    journal_rounds: int
    journal_pace_s: float
    journal_stops: int
    # Paced, beside a flood: longer than what its percentiles leave out, as above.
    overload_rounds: int
    overload_s: float
    overload_sessions: int
    resume_rounds: int
    resume_sessions: int
    cuts: int
    failover_rounds: int
    failover_sessions: int
    calls: int
    opens: int
    memory_rounds: int
    memory_sessions: int
    memory_tokens: int
    long_events: int
    live_sessions: int
    live_events: int
    length_tokens: int
    length_answers: int
    vectors: int
    # Over HTTP. Paced and crowd as above; `web_shared_s`: how long a bare loop pushes frames.
    web_rounds: int
    web_flood_sessions: tuple[int, ...]
    web_viewers: int
    web_shared_tokens: int
    web_shared_s: float
    web_stops: int
    web_idle_viewers: int


WHOLE = Plan(
    bound_s=720,
    measurement_s=90,
    rounds=4,
    flood_s=0.8,
    flood_sessions=(1, 10, 100),
    pace_s=2.4,
    pace_sessions=100,
    crowd_rounds=3,
    crowd_s=2.4,
    crowd_sessions=1_000,
    crowd_processes=4,
    wait_s=1.0,
    wait_sessions=(1, 100),
    wait_alone=5,
    stops=100,
    stop_busy=(0, 100),
    journal_sessions=(1, 100),
    journal_rounds=3,
    journal_pace_s=2.0,
    journal_stops=50,
    overload_rounds=3,
    overload_s=2.4,
    overload_sessions=20,
    resume_rounds=3,
    resume_sessions=50,
    cuts=10,
    failover_rounds=3,
    failover_sessions=20,
    calls=500,
    opens=200,
    memory_rounds=1,
    memory_sessions=400,
    memory_tokens=100,
    long_events=2_000,
    live_sessions=2_000,
    live_events=20,
    length_tokens=50_000,
    length_answers=100,
    vectors=200,
    web_rounds=3,
    web_flood_sessions=(1, 100),
    web_viewers=100,
    web_shared_tokens=1_000,
    web_shared_s=0.8,
    web_stops=50,
    web_idle_viewers=2_000,
)

QUICK = Plan(
    bound_s=180,
    measurement_s=30,
    rounds=1,
    flood_s=0.3,
    flood_sessions=(1, 100),
    pace_s=1.2,
    pace_sessions=100,
    crowd_rounds=1,
    crowd_s=1.2,
    crowd_sessions=400,
    crowd_processes=2,
    wait_s=0.3,
    wait_sessions=(1, 100),
    wait_alone=3,
    stops=25,
    stop_busy=(100,),
    journal_sessions=(100,),
    journal_rounds=1,
    journal_pace_s=1.2,
    journal_stops=10,
    overload_rounds=1,
    overload_s=1.2,
    overload_sessions=20,
    resume_rounds=1,
    resume_sessions=50,
    cuts=4,
    failover_rounds=1,
    failover_sessions=20,
    calls=100,
    opens=50,
    memory_rounds=1,
    memory_sessions=50,
    memory_tokens=100,
    long_events=500,
    live_sessions=200,
    live_events=20,
    length_tokens=20_000,
    length_answers=40,
    vectors=50,
    web_rounds=1,
    web_flood_sessions=(100,),
    web_viewers=20,
    web_shared_tokens=300,
    web_shared_s=0.3,
    web_stops=20,
    web_idle_viewers=200,
)
