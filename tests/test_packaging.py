"""A built wheel works from another folder, and holds what it should."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's contents in it."""
    built = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = built.glob("*.whl")
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(target)
    return target


def run(installed: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import dispatcher, commander, southwest.ai.agent.v1.chat_pb2 as c; print(dispatcher.__file__, c.__file__)"
    said = run(installed, tmp_path, "-c", code)
    assert said.count(str(installed)) == 2


@pytest.mark.parametrize("package", ["dispatcher", "commander"])
def test_both_commands_start_from_the_wheel(installed: Path, tmp_path: Path, package: str) -> None:
    assert package in run(installed, tmp_path, "-m", package, "--help")


def test_the_wheel_holds_what_the_programs_read(installed: Path) -> None:
    assert list((installed / "dispatcher" / "tools" / "demo_texts").glob("*.txt"))
    page = Path("dispatcher") / "edge" / "page"
    assert {path.name for path in (installed / page).iterdir()} == {
        path.name for path in (ROOT / page).iterdir() if path.is_file()
    }
    assert (installed / "dispatcher" / "py.typed").exists()
    assert (installed / "commander" / "py.typed").exists()
    assert not (installed / "tests").exists()
