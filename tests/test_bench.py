"""The bench: every measurement runs, with sizes too small to mean anything, and gives what the table promises."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from asynchronous import asynchronous, soon
from hypothesis import given
from hypothesis import strategies as st
from journal_scenes import asked, kept, texts

from bench import table
from bench.cli import GROUPS, MEASUREMENTS, Report, main, run
from bench.keeping import Arrivals
from bench.load import LEFT_OUT
from bench.plan import QUICK, Plan
from bench.proxy import proxy
from bench.rows import Goal, Row, row
from bench.scene import Scene
from bench.stamping import StampingJournal
from bench.tell import Tell
from bench.tokens import NS, STAMP_CHARS, due_times, latencies, news
from dispatcher.core.mark import Mark
from dispatcher.journal.sqlite import SqliteJournal

ROOT = Path(__file__).resolve().parent.parent
TINY = Plan(
    bound_s=100,
    measurement_s=30,
    rounds=1,
    flood_s=0.05,
    flood_sessions=(1, 2),
    pace_s=0.9,
    pace_sessions=2,
    crowd_rounds=1,
    crowd_s=0.9,
    crowd_sessions=4,
    crowd_processes=2,
    wait_s=0.05,
    wait_sessions=(1, 2),
    wait_alone=2,
    stops=2,
    stop_busy=(0, 2),
    journal_sessions=(1, 2),
    journal_rounds=1,
    journal_pace_s=0.9,
    journal_stops=2,
    overload_rounds=1,
    overload_s=0.9,
    overload_sessions=2,
    resume_rounds=1,
    resume_sessions=2,
    cuts=2,
    failover_rounds=1,
    failover_sessions=2,
    calls=3,
    opens=2,
    memory_rounds=1,
    memory_sessions=10,
    memory_tokens=5,
    long_events=20,
    live_sessions=10,
    live_events=4,
    length_tokens=400,
    length_answers=2,
    vectors=2,
    web_rounds=1,
    web_flood_sessions=(2,),
    web_viewers=3,
    web_shared_tokens=50,
    web_shared_s=0.1,
    web_stops=3,
    web_idle_viewers=10,
)


def own_processes() -> set[str]:
    """The ids of processes that this one started and that have not been waited for."""
    pids: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        # One that has ended meanwhile has left its children to another.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pids.update((thread / "children").read_text().split())
    return pids


@pytest.mark.slow
def test_every_measurement_gives_rows_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = own_processes()
    path = tmp_path / "results" / "tiny.json"
    report = Report(TINY, path)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(TINY, list(MEASUREMENTS), report))
    report.write()

    assert report.failures == []
    assert own_processes() <= before
    document = json.loads(path.read_text())
    assert {each["measurement"] for each in document["rows"]} == set(MEASUREMENTS)
    for each in document["rows"]:
        assert math.isfinite(each["ours"]["median"]), each
        assert each["goal"] is None or isinstance(each["met"], bool), each
    (never,) = (each for each in document["rows"] if "after an ending" in each["what"])
    assert never["ours"]["median"] == 0
    paced = [
        row
        for row in document["rows"]
        if row["measurement"] in ("paced", "crowd", "overload") and "latency" in row["what"]
    ]
    assert paced
    assert all(LEFT_OUT in row["note"] for row in paced)
    # Where nothing was left to measure they would be zero.
    assert all(row["ours"]["least"] > 0 and row["theirs"]["least"] > 0 for row in paced)
    out = capsys.readouterr().out
    assert "ChatStream" in out
    assert "not measured" not in out
    assert all(f"\n{name}\n" in out for name in MEASUREMENTS)


@pytest.mark.slow
def test_the_quick_measurements_over_http_give_all_their_rows(tmp_path: Path) -> None:
    report = Report(QUICK, tmp_path / "quick.json")
    # However busy the machine is. What they are allowed is for a person who waits.
    patient = replace(QUICK, bound_s=QUICK.bound_s * 10, measurement_s=QUICK.measurement_s * 10)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(patient, GROUPS["web"], report))
    assert report.failures == []
    assert {each["measurement"] for each in report.rows} == set(GROUPS["web"])


class Seen:
    """Measurements that go wrong, and one that notes which dispatcher it was given."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.cleared_up = False

    async def note(self, _plan: Plan, scene: Scene, _tell: Tell) -> AsyncGenerator[list[Row]]:
        self.hosts.append(repr(scene.pair.host))
        await scene.pair.host.told("cpu")
        yield [row("noted", "", [1.0])]

    async def kill(self, _plan: Plan, scene: Scene, _tell: Tell) -> AsyncGenerator[list[Row]]:
        found = re.search(r"process (\d+)", repr(scene.pair.host))
        assert found is not None
        os.kill(int(found[1]), signal.SIGKILL)
        await scene.pair.host.told("cpu")
        yield []

    async def hang(self, _plan: Plan, _scene: Scene, _tell: Tell) -> AsyncGenerator[list[Row]]:
        try:
            yield [row("before it hung", "", [1.0])]
            await asyncio.Event().wait()
        finally:
            self.cleared_up = True

    async def divide(self, _plan: Plan, _scene: Scene, _tell: Tell) -> AsyncGenerator[list[Row]]:
        yield [row("never", "", [1 / (self.hosts.count("none"))])]


@pytest.mark.slow
def test_a_measurement_that_fails_or_takes_too_long_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = own_processes()
    seen = Seen()
    measurements = {
        "first": ("", seen.note),
        "second": ("", seen.note),
        "killed": ("", seen.kill),
        "third": ("", seen.note),
        "hung": ("", seen.hang),
        "fourth": ("", seen.note),
        "divided": ("", seen.divide),
    }
    report = Report(TINY, tmp_path / "some.json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(replace(TINY, measurement_s=5), list(measurements), report, measurements))
    report.write()

    first, second, third, fourth = seen.hosts
    assert first == second
    assert len({first, third, fourth}) == 3
    assert own_processes() <= before
    document = json.loads((tmp_path / "some.json").read_text())
    shown = ["first", "second", "third", "hung", "fourth"]
    assert [each["measurement"] for each in document["rows"]] == shown
    assert seen.cleared_up
    why = {each["measurement"]: each["why"] for each in document["failures"]}
    assert list(why) == ["killed", "hung", "divided"]
    assert "host" in why["killed"]
    assert why["hung"] == "it took longer than 5 s"
    assert why["divided"].startswith("ZeroDivisionError")
    out = capsys.readouterr().out
    for name in ("killed", "divided"):
        assert f"\n{name}\n  not measured: {why[name].splitlines()[0]}\n" in out
    assert out.count("\nhung\n  before it hung ") == 1
    assert "\n  the rest not measured: it took longer than 5 s\nfourth\n" in out
    assert report.missing(list(measurements)) == []


def test_what_there_was_no_time_for_is_named_and_the_command_fails(tmp_path: Path) -> None:
    report = Report(TINY, tmp_path / "late.json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(replace(TINY, bound_s=0), ["calls", "opening"], report))
    assert report.rows == []
    assert [each["measurement"] for each in report.failures] == ["calls", "opening"]
    assert all(each["why"] == "the bench's 0 s were over" for each in report.failures)
    assert report.exit_code == 1


def test_ctrl_c_ends_its_processes_and_keeps_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    bench = subprocess.Popen(
        [sys.executable, "-m", "bench", "--quick", "--only=flooded", f"--json={path}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if "round 1" in line:
                break
        children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
        assert len(children) == 4
        os.kill(bench.pid, signal.SIGINT)
        rest = bench.stderr.read()
        assert bench.wait(30) == 130
    assert "Traceback" not in rest
    assert not any(Path("/proc", pid).exists() for pid in children)
    document = json.loads(path.read_text())
    assert document["rows"] == []
    assert document["failures"] == [{"measurement": "flooded", "why": "the bench was interrupted"}]


def test_help_teaches_and_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as helped:
        main(["--help"])
    assert helped.value.code == 0
    told = capsys.readouterr().out
    assert all(name in told for name in MEASUREMENTS)
    with pytest.raises(SystemExit) as refused:
        main(["--only", "everything"])
    assert refused.value.code == 2


@asynchronous
async def test_a_text_has_come_when_it_is_kept_and_not_before(tmp_path: Path) -> None:
    file = SqliteJournal.at(tmp_path / "journal.db")
    arrivals = Arrivals()
    journal = StampingJournal(file, arrivals)
    journal.open(asked("session"))
    journal.append("session", texts(1, 3), Mark)
    came = arrivals.orders["arrivals"]
    assert (journal.read("session", 0, 9).head, came()) == (0, [])

    await kept(file)
    assert journal.read("session", 0, 9).head == len(came()) == 3
    await file.close()


@given(st.data())
def test_tokens_are_read_whole_however_they_are_merged_and_cut(data: st.DataObject) -> None:
    made = data.draw(st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
    text = "".join(f"{each:016x} " for each in made)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    begins, ends = [0, *cuts], [*cuts, len(text)]
    late = 10**16
    kept = [(late + n, "s", text[a:b]) for n, (a, b) in enumerate(zip(begins, ends, strict=True))]

    found = latencies(kept, 0, late, late + 10**6)
    assert found.tokens == found.in_time == len(made)
    # The slowest is the one with the greatest time from its making to the piece that has its last character.
    arrived = [next(n for n, b in enumerate(ends) if b >= (i + 1) * STAMP_CHARS) for i in range(len(made))]
    slowest = max(late + n - each for n, each in zip(arrived, made, strict=True))
    assert found.max_ms == pytest.approx(slowest / 1e6)


def test_percentiles_leave_out_what_was_yielded_at_the_beginning_and_at_the_end_of_a_load() -> None:
    took = {100: 50_000_000, 200: 1_000_000, 300: 3_000_000, 399: 2_000_000, 400: 90_000_000, 500: 70_000_000}
    kept = [(made + ns, "s", f"{made:016x} ") for made, ns in took.items()]
    found = latencies(kept, 200, 400, 300 + 3_000_000)
    assert (found.p50_ms, found.p99_ms, found.max_ms) == (2.0, 3.0, 3.0)
    # Whether they came, and came in time, is asked of all.
    assert found.tokens == 6
    assert found.in_time == 3


def test_news_of_a_moment_is_what_was_made_since_then_and_not_what_came_late() -> None:
    def piece(*made: int) -> str:
        return "".join(f"{each:016x} " for each in made)

    kept = [
        (150, "a", piece(90)),
        (160, "a", piece(95, 110)),
        (170, "b", piece(120)),
        (180, "a", piece(130)),
        (210, "b", piece(199)),
        (250, "b", piece(201)),
        (260, "a", piece(230)),
    ]
    assert news(kept, [100, 200]) == [(160, 170), (250, 260)]


@asynchronous
async def test_a_cut_resets_what_goes_through_the_proxy_and_lets_new_connections_in() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, proxy(f"{host}:{port}") as between:
        where = between.address.split(":")
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"one\n")
        assert await soon(reader.readline()) == b"one\n"
        between.cut()
        with pytest.raises(ConnectionResetError):
            await soon(reader.readline())
        writer.close()

        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"two\n")
        assert await soon(reader.readline()) == b"two\n"
        writer.close()


def test_sessions_of_a_load_are_spread_over_the_interval() -> None:
    start = 10**18
    firsts = sorted(next(due_times(start, start + NS, 50.0, index)) - start for index in range(100))
    assert firsts[0] >= 0
    assert firsts[-1] < NS / 50
    assert max(b - a for a, b in itertools.pairwise(firsts)) < NS / 50 / 25


def test_the_ratio_is_that_of_the_rounds_and_goals_look_at_its_median() -> None:
    told = row("x", "ms", [2.0, 8.0, 3.0], [1.0, 2.0, 3.0], Goal("at most", 2))
    assert told.ratio is not None
    assert told.ratio == (2.0, 1.0, 4.0)
    assert told.met is True
    assert row("x", "ms", [2.0, 8.0, 3.0], [1.0, 2.0, 3.0], Goal("at least", 3)).met is False
    assert row("x", "ms", [11.0], goal=Goal("at most", 10, of="value")).met is False
    assert row("x", "ms", [11.0]).met is None


@pytest.mark.parametrize(("ours", "theirs"), [(3.0, 0.0), (3.0, -0.5), (-3.0, 0.5)])
def test_what_came_out_as_nothing_or_less_has_no_ratio(ours: float, theirs: float) -> None:
    told = row("x", "kB", [ours], [theirs])
    assert told.ratio is None
    line = table.lines([told])[0]
    assert line.endswith("–")
    assert "×" not in line
