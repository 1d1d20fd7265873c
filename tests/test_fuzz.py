"""Fuzzing: what the corpus holds is replayed; in `make slow` cases are thought up for as long as there is time."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz.case import Case
from fuzz.edits import EDITS, edited
from fuzz.ground import BrokenError, Ground, standing_ground
from fuzz.invention import SERVICES, invented
from fuzz.statuses import METHODS, improper
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*.case"))
SECONDS = float(os.environ.get("SLOW_SECONDS", "300"))
NUMBERS = st.lists(st.integers(0, 2**48), min_size=1, max_size=16)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with standing_ground() as ground:
        yield ground


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_breaks_nothing(ground: Ground, path: Path) -> None:
    case = Case.parse(path.read_text())
    assert case.why, "a case begins with a comment that says why it is kept"
    ground.play(case)


@pytest.mark.parametrize("service", SERVICES)
def test_the_same_numbers_are_the_same_case_and_its_text_is_all_of_it(service: str) -> None:
    numbers = [7, 1_000, 3, 2**40, 99, 12_345, 8, 6]
    case = invented(service, numbers)
    assert len(case.steps) > len(numbers)
    assert case == invented(service, numbers) == Case.parse(str(case))


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_changes_bytes(name: str) -> None:
    assert edited(b"\x0a\x03abc", f"{name} 27") != b"\x0a\x03abc"
    edited(b"", f"{name} 27")


def test_statuses_are_those_of_the_contract() -> None:
    assert "ABORTED" in METHODS["ChatStream"]
    assert "NOT_FOUND" in METHODS["Subscribe"]
    assert "NOT_FOUND" not in METHODS["ListAgents"]
    assert not [name for name, codes in METHODS.items() if codes & {"UNKNOWN", "INTERNAL"}]
    assert improper("ListAgents", "NOT_FOUND", "")
    assert improper("ChatStream", "INVALID_ARGUMENT", "Error parsing message")
    assert not improper("ChatStream", "INVALID_ARGUMENT", "hello.slots: is 0; 1 to 100000 are right")


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("service", SERVICES)
def test_nothing_that_is_thought_up_breaks_anything(service: str, progress: Callable[[str], None]) -> None:
    until = time.monotonic() + SECONDS
    found = Path(tempfile.gettempdir()) / f"fuzz-{service}.case"
    with standing_ground() as ground:

        @settings(
            max_examples=100,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(NUMBERS)
        def one(numbers: list[int]) -> None:
            case = invented(service, numbers)
            progress(f"fuzzing {service}: {ground.cases} cases, {until - time.monotonic():.0f} s left")
            try:
                ground.play(case)
            except BrokenError:
                found.write_text(str(case))
                raise

        try:
            while time.monotonic() < until:
                one()
        except BaseException:
            print(f"to replay it alone: cd tests && python -m fuzz replay {found}")
            raise
        finally:
            print(f"{service}: {ground.cases} cases")
