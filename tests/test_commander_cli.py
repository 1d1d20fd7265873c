"""The commander's command line: what it lists, and what it says to wrong words."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from minimal_dispatcher import MinimalDispatcher

from commander.cli import main

AGENTS = '''
from commander import agent

@agent("weather", version="2", description="Answers questions about the weather", on_restart="continue")
async def weather(turn):
    yield "sunny"

@agent
def news(turn):
    """Tells the news."""
    return "none"
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "listed_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_agents_are_listed_with_their_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder
    assert main(["agents", "listed_agents.py"]) == 0
    assert capsys.readouterr().out == (
        "weather 2  async generator  continue  Answers questions about the weather\n"
        "news       function         restart   Tells the news.\n"
    )


def test_agents_are_listed_as_json_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder
    assert main(["agents", "listed_agents.py", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "name": "weather",
        "version": "2",
        "kind": "async generator",
        "on_restart": "continue",
        "description": "Answers questions about the weather",
    }
    assert (second["name"], second["version"], second["kind"]) == ("news", "", "function")


def test_installed_agents_are_listed_without_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents"]) == 0
    assert "demo" in capsys.readouterr().out


def test_a_run_without_a_target_says_what_one_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "name at least one TARGET: MODULE:NAME" in capsys.readouterr().err


def test_settings_that_make_no_sense_are_named_with_their_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMANDER_SLOTS", "many")
    assert main(["run", "demo", "--dispatcher", "nowhere"]) == 2
    err = capsys.readouterr().err
    assert "commander: COMMANDER_SLOTS: 'many' should be a whole number" in err
    assert "commander: --dispatcher: 'nowhere' should be HOST:PORT" in err


def test_the_settings_are_printed_with_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--slots", "7", "--print-config"]) == 0
    assert "slots = 7  # --slots" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["ask", "--help"], ["nothing"]])
def test_help_and_nonsense_come_quickly_and_without_grpc(arguments: list[str]) -> None:
    """What only reads words loads no gRPC, which takes a quarter of a second."""
    script = (
        "import sys\n"
        "from commander.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "assert 'grpc' not in sys.modules, 'it loads gRPC'\n"
        "sys.exit(code)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert "it loads gRPC" not in ended.stderr
    assert ended.returncode == (0 if "--help" in arguments else 2)
    assert "Traceback" not in ended.stderr


def test_a_flag_typed_wrong_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "demo", "--slosts", "7"])
    assert left.value.code == 2
    assert "unrecognized arguments: --slosts 7; did you mean --slots?" in capsys.readouterr().err


def test_ask_offers_no_flag_that_has_no_effect_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "--help"])
    helped = capsys.readouterr().out
    assert "--dispatcher" in helped
    assert "--stop-grace-s" in helped
    with pytest.raises(SystemExit) as left:
        main(["ask", "hello", "--slots", "7"])
    assert left.value.code == 2
    assert "unrecognized arguments: --slots 7" in capsys.readouterr().err


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("chatstream ")


PATIENCE_S = 60.0

FOREVER = """
import asyncio, pathlib
from commander import agent

@agent
async def forever(turn):
    try:
        while True:
            yield "on and "
            await asyncio.sleep(0)
    finally:
        pathlib.Path("cleaned-up").touch()
"""


def buffered() -> dict[str, str]:
    """This environment, where what is printed waits for a flush: unbuffered, argparse hides what fails."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def with_a_closed_pipe(folder: Path, *words: str | bytes) -> tuple[int, str]:
    """How a command ends whose output nobody reads, and what it complains of."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "commander", *words],
            cwd=folder,
            env=buffered(),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    finally:
        os.close(writing)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("words", [["--help"], ["agents", "--json"], ["run", "--print-config"]])
def test_an_output_that_nobody_reads_is_no_traceback(folder: Path, words: list[str]) -> None:
    assert with_a_closed_pipe(folder, *words) == (141, "")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_turn_whose_output_nobody_reads_is_stopped_and_cleans_up(folder: Path, flags: list[str]) -> None:
    (folder / "endless.py").write_text(FOREVER)
    with MinimalDispatcher(folder, lambda _: None) as dispatcher:
        where = ("--dispatcher", dispatcher.address)
        status, err = with_a_closed_pipe(
            folder, "ask", "hello", "--agent", "endless.py:forever", *where, *flags
        )
    assert status == 141
    assert "Traceback" not in err
    assert (folder / "cleaned-up").exists()


@pytest.mark.parametrize(
    "words", [("ask", b"caf\xe9"), ("run", b"caf\xe9"), ("agents", b"caf\xe9"), ("run", "demo", b"--\xe9=1")]
)
def test_words_that_are_no_text_are_refused(folder: Path, words: tuple[str | bytes, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "commander", *words],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    said = ended.stderr.decode()
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert said.startswith("commander: '")
    assert "\ufffd" in said
    assert "is not in UTF-8" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"s\xe9cret", b"x" * 10_000])
@pytest.mark.parametrize("command", ["run demo", "ask hello"])
def test_a_file_that_holds_no_token_is_refused_at_the_start(
    command: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    assert main([*command.split(), "--dispatcher", "127.0.0.1:1", "--token-file", str(token)]) == 2
    err = capsys.readouterr().err
    assert f"commander: token_file: {token} holds no token: it is one word" in err
    assert not content.strip() or content.decode("latin-1") not in err
    assert "Traceback" not in err


def test_a_token_may_come_through_a_pipe(folder: Path) -> None:
    with MinimalDispatcher(folder, lambda _: None) as dispatcher:
        reading, writing = os.pipe()
        os.write(writing, b"secret\n")
        os.close(writing)
        words = ("--agent", "listed_agents.py:weather", "--dispatcher", dispatcher.address)
        ended = subprocess.run(
            [sys.executable, "-m", "commander", "ask", "hello", *words, "--token-file", f"/dev/fd/{reading}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(reading,),
            timeout=PATIENCE_S,
        )
        os.close(reading)
    assert (ended.returncode, ended.stdout) == (0, "sunny\n"), ended.stderr


def test_a_dispatcher_that_is_not_there_is_told_with_the_ways_to_name_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("COMMANDER_DISPATCHER", address)
    assert main(["ask", "hello"]) == 6
    err = capsys.readouterr().err
    assert f"no dispatcher at {address}" in err
    assert "with --dispatcher HOST:PORT or COMMANDER_DISPATCHER" in err
