"""What is typed wrong, what can't be reached, and what the help teaches. Most of it without a process."""

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from console_server import PATIENCE_S, environment, play, run_cli
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.cli import COMMANDS, main
from dispatcher.console.arguments import ADDRESS_VARIABLE, STOP_CODES, cursor, stop_code
from dispatcher.console.connection import is_local
from dispatcher.console.guide import GROUPS, LESSONS
from dispatcher.settings import Mode, Settings


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)


def usage_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The complaint about a command line that nothing must come of."""
    try:
        status: object = main(words)
    except SystemExit as left:  # argparse leaves by itself
        status = left.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    return err


def free_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_every_command_has_a_lesson() -> None:
    assert [lesson.name for lesson in LESSONS] == list(COMMANDS)
    assert {lesson.group for lesson in LESSONS} == {group for group, _ in GROUPS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    help_text = capsys.readouterr().out
    (examples,) = (lesson.examples for lesson in LESSONS if lesson.name == command)
    assert help_text.count(f"\n  dispatcher {command}") == len(examples) >= 2
    assert ("--grpc-address" if command == "serve" else "--dispatcher HOST:PORT") in help_text


def test_the_help_of_drain_says_which_deadline_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["drain", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "default: the drain_deadline_s of the commander or dispatcher drained" in help_text
    assert "may finish" not in help_text


def test_the_help_of_drain_says_what_becomes_of_what_still_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["drain", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert (
        "sessions that a commander still runs are handed over to others, as their next attempt" in help_text
    )
    assert "a dispatcher with its journal in a file leaves them as they stand for its next life" in help_text
    assert "one with it in memory ends them as `shutdown`" in help_text
    assert "is ended" not in help_text


def test_the_help_of_limits_names_all_modes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["limits", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    modes = [
        name for name, field in Settings.model_fields.items() if get_args(field.annotation) == get_args(Mode)
    ]
    assert "deny_mode" in modes
    assert ", ".join(sorted(modes)) in help_text


def test_the_first_help_groups_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    for words in ("serve - ", "use - ", "operate - ", "exit status:", *(f"\n  {name} " for name in COMMANDS)):
        assert words in help_text
    assert "usage: dispatcher COMMAND" in usage_error(capsys)


@pytest.mark.parametrize(
    "command", [example for lesson in LESSONS if lesson.name != "serve" for example, _ in lesson.examples]
)
def test_examples_are_right(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each parses, and so ends as everything does where no dispatcher is."""
    words = shlex.split(command.replace("EPOCH:OFFSET", "e1:7").partition(" | ")[0].partition(" > ")[0])[1:]
    assert main([*words, "--dispatcher", free_address()]) == 6
    err = capsys.readouterr().err
    assert err.startswith("dispatcher: no dispatcher answers at 127.0.0.1:")
    assert "(Connection refused): start one with `dispatcher serve`" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [example for lesson in LESSONS if lesson.name == "serve" for example, _ in lesson.examples]
)
def test_examples_of_serve_are_right(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cert.pem", "key.pem", "tokens.toml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[1:], "--print-config"]) == 0
    told = capsys.readouterr().out
    assert "# --grpc-address" in told or "--grpc-address" not in command


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("chta", "there is no command 'chta'; did you mean 'chat'?"),
        ("chat", "the following arguments are required: TEXT"),
        ("chat ' '", "argument TEXT: the text is empty"),
        ("chat Hi --label eu", "argument --label: 'eu' is no KEY=VALUE"),
        ("chat Hi --label a=1 --label a=2", "argument --label: a is given twice"),
        ("chat Hi --agent ''", "argument --agent: the value is empty"),
        ("chat Hi --stop-when-left -1", "argument --stop-when-left: '-1' is no number of seconds from 0"),
        ("chat Hi --timeout-s 0", "argument --timeout-s: '0' is no number of seconds from 0.001"),
        ("chat Hi --timeout-s nan", "argument --timeout-s: 'nan' is no number of seconds"),
        ("chat Hi --dispatcher nowhere", "argument --dispatcher: 'nowhere' is no address: it is HOST:PORT"),
        ("chat Hi --dispatcher a:99999", "a port from 1 to 65535"),
        ("chat Hi --dispatcher ::1:50051", "is no address"),
        ("watch s --cursor 12", "argument --cursor: '12' is no EPOCH:OFFSET"),
        ("serve --queue-wiat-s 3", "unrecognized arguments: --queue-wiat-s 3; did you mean --queue-wait-s?"),
        ("sessions --jsno", "unrecognized arguments: --jsno; did you mean --json?"),
        ("sesions", "there is no command 'sesions'; did you mean 'sessions'?"),
        ("stop", "nothing is selected: name sessions, or say --user"),
        ("stop a --all", "session ids or a selector"),
        ("stop --all --user u", "--all means every session"),
        ("stop --user ''", "argument --user: the value is empty"),
        ("stop a --code whim", "invalid choice: 'whim'"),
        ("stop a --grace-s -1", "argument --grace-s: '-1' is no number of seconds from 0"),
        ("limits --set x", "argument --set: 'x' is no NAME=NUMBER, such as queue_wait_s=30"),
        (
            "limits --set deny_mode=observe",
            "is no NAME=NUMBER, such as queue_wait_s=30; a mode is changed with",
        ),
        (
            "limits --mode deny_mode",
            "argument --mode: 'deny_mode' is no NAME=MODE, such as deny_mode=observe",
        ),
        ("limits --set x=inf", "'x=inf' is no NAME=NUMBER"),
        ("limits --mode x=maybe", "the mode is enforce or observe"),
        ("sessions --limit 0", "'0' is no whole number from 1"),
        ("agents --tls-ca /nowhere/ca.pem", "--tls-ca: can't read /nowhere/ca.pem: No such file"),
        ("agents --token-file /nowhere/token", "--token-file: can't read /nowhere/token: No such file"),
    ],
)
def test_wrong_usage_is_told_with_the_flag(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in usage_error(capsys, *shlex.split(line))


def test_a_wrong_address_in_the_environment_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "nowhere")
    assert "'nowhere' is no address" in usage_error(capsys, "agents")


def test_the_address_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = free_address()
    monkeypatch.setenv(ADDRESS_VARIABLE, address)
    assert main(["agents"]) == 6
    assert address in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "two words", "sécret", "x" * 10_000])
def test_a_file_that_holds_no_token(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    err = usage_error(capsys, "agents", "--token-file", str(token))
    assert "holds no token" in err
    assert not content or content not in err


def test_a_token_never_crosses_the_network_in_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    err = usage_error(capsys, "agents", "--token-file", str(token), "--dispatcher", "example.invalid:50051")
    assert "would cross the network to example.invalid:50051 in plain text: add --tls" in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/d.sock", True),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
        ("[2001:db8::1]:1", False),
    ],
)
def test_what_is_local(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_stop_codes_are_those_of_the_contract() -> None:
    assert stop_code(None) == agent_pb2.STOP_CODE_UNSPECIFIED
    assert len({stop_code(word) for word in STOP_CODES}) == len(STOP_CODES)


def test_an_epoch_may_hold_a_colon() -> None:
    assert (cursor("a:b:7").epoch, cursor("a:b:7").offset) == ("a:b", 7)


@pytest.mark.parametrize("command", ["agents", "chat Hi"])
def test_a_port_that_never_answers_is_given_up(command: str) -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody answers
            words = [*shlex.split(command), "--timeout-s", "0.3"]
            status, out, err = await run_cli(*words, address=f"127.0.0.1:{silent.getsockname()[1]}")
        assert (status, out) == (6, "")
        assert "has not answered within 0.3 s" in err
        assert err.count("\n") == 1

    play(scene())


def test_a_port_that_speaks_something_else_is_no_traceback() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scene() -> None:
        async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            status, out, err = await run_cli("agents", address=f"127.0.0.1:{port}")
        assert (status, out) == (6, "")
        assert err.startswith(f"dispatcher: no dispatcher answers at 127.0.0.1:{port}")
        assert err.count("\n") == 1

    play(scene())


def test_a_locale_without_the_characters_is_no_crash() -> None:
    async def scene() -> None:
        env = {**environment(), "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        status, _, err = await run_cli("chat", "日本", "--dispatcher", free_address(), env=env)
        assert status == 6
        assert err.isascii()

    play(scene())


@pytest.mark.parametrize("command", COMMANDS)
def test_words_that_are_no_text_are_refused_by_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = usage_error(capsys, command, os.fsdecode(b"caf\xe9"))
    assert said.startswith("dispatcher: 'caf\ufffd' is not in UTF-8")
    assert said.count("\n") == 1


def test_a_first_word_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not in UTF-8" in usage_error(capsys, os.fsdecode(b"\xff"))


def test_help_that_nobody_reads_is_no_complaint() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", "--help"],
            # Unbuffered, argparse would hide what fails.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PATIENCE_S,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_serve_prints_its_settings_and_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--print-config", "--grpc-address", "127.0.0.1:7"]) == 0
    assert 'grpc_address = "127.0.0.1:7"  # ' in capsys.readouterr().out


def test_serve_says_which_setting_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--grpc-address" in usage_error(capsys, "serve", "--grpc-address", "nowhere")
