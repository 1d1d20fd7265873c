"""The command line: run agents for a dispatcher, ask one here, list what there is."""

import argparse
import asyncio
import difflib
import importlib.metadata
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TextIO, cast

from commander import loading, logs, settings
from commander.agent import AnyAgent

# Wrong words on the command line, in a variable or in a file.
EXIT_USAGE = 2
# As a shell reports a program that SIGINT or SIGPIPE ended.
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

_TARGETS = (
    "MODULE:NAME, FILE.py:NAME, either without :NAME for every agent in it, or the name of an installed agent"
)


# What concerns a link that serves many sessions and comes back: `ask` has none.
_RUN_ONLY = frozenset(
    {
        "commander_id",
        "labels",
        "slots",
        "reconnect_first_s",
        "reconnect_max_s",
        "unlinked_keep_s",
        "heartbeat_interval_s",
        "heartbeats_missed",
        "drain_deadline_s",
        "blocked_after_s",
        "metrics_address",
        "metrics_public",
    }
)


# Tables: no flag can tell them.
_FILE_ONLY = frozenset({"models"})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _command(words)
        finally:
            if sys.stdout is not None:  # there may be none
                sys.stdout.flush()
    except (settings.SettingsError, loading.TargetError) as error:
        for line in str(error).splitlines():
            print(f"commander: {line}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes at exit.
        _discard(sys.stdout)
        return EXIT_PIPE_CLOSED


def _command(words: Sequence[str]) -> int:
    # gRPC's C core writes lines of its own to standard error; what matters in them, the link tells better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    _refuse_undecodable(words)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, arguments)}")
    command: object = arguments.command
    if command == "agents":
        return _agents(arguments.targets, as_json=arguments.json)
    loaded = settings.load(arguments, os.environ)
    if arguments.print_config:
        print(settings.render(loaded), end="")
        return 0
    if command == "ask":
        return _ask(loaded.settings, arguments)
    return _run(loaded.settings, arguments.targets)


def _refuse_undecodable(words: Sequence[str]) -> None:
    """Python keeps bytes that are no text as surrogates, which nothing later can send or print."""
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            encoding = sys.getfilesystemencoding()
            shown = os.fsencode(word).decode(encoding, "replace")
            raise settings.SettingsError(
                f"{shown!r} is not in {encoding.upper()}, which the words of a command line have to be here: type it"
                " anew, or set LC_ALL to the encoding it is in"
            )


def _meant(unknown: Sequence[str], parsed: argparse.Namespace) -> str:
    """The nearest flag of the same command, where one is near."""
    flags = [f"--{name.replace('_', '-')}" for name in vars(parsed)]
    for word in unknown:
        near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
        if near:
            return f"; did you mean {near[0]}?"
    return ""


_EXAMPLES = """examples:
  commander run demo
      serve the agent in the box to a dispatcher on this machine
  commander run assistant --model openai-chat:qwen3 --base-url http://127.0.0.1:8000/v1
      serve a language model, of any server that is compatible with OpenAI's
  commander run my_agents.py:weather --dispatcher agents.example:443 --tls --slots 20
      serve one agent of a file, twenty sessions at once
  commander ask "What is 6 * 7?"
      run one turn of the demo agent, against any dispatcher
  commander agents my_agents.py
      see which agents a file holds

exit status:
  0 done, completed   1 the link broke over a mistake in the commander   2 wrong usage   3 the turn was stopped
  4 it failed   6 the dispatcher can't be reached   70 every slot is held by an agent that ignored its stop
  130 left by Ctrl-C   141 whoever read the output has left"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="commander",
        description="Runs agents and streams what they say.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chatstream {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve agents to a dispatcher", description="Serve agents.")
    run.add_argument("targets", nargs="*", metavar="TARGET", help=f"What to serve: {_TARGETS}.")
    settings.add_arguments(run, [name for name in settings.Settings.model_fields if name not in _FILE_ONLY])
    ask = commands.add_parser(
        "ask",
        help="run one turn of a local agent against any dispatcher",
        description="Run one turn of a local agent. Exits with 0 completed, 2 usage, 3 stopped, 4 failed,"
        " 6 unreachable, 141 when whoever read the output has left.",
    )
    ask.add_argument("text", metavar="TEXT", help="What to ask.")
    ask.add_argument("--agent", default="demo", metavar="TARGET", help=f"{_TARGETS}. Default: demo.")
    ask.add_argument("--json", action="store_true", help="Print each packet as one JSON object a line.")
    settings.add_arguments(
        ask, [name for name in settings.Settings.model_fields if name not in _RUN_ONLY | _FILE_ONLY]
    )
    agents = commands.add_parser(
        "agents", help="list agents", description="List the agents that targets hold."
    )
    agents.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"{_TARGETS}. None: all that are installed."
    )
    agents.add_argument("--json", action="store_true", help="Print each agent as one JSON object a line.")
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("chatstream")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree that was not installed"


def _run(told: settings.Settings, targets: Sequence[str]) -> int:
    if not targets:
        raise loading.TargetError(f"run: name at least one TARGET: {_TARGETS}")
    # Before the agents' modules are imported, so that theirs is the last word.
    logs.configure(told.log_format, told.log_level)
    agents = loading.load(targets)
    from commander.dialing import try_files  # noqa: PLC0415 - gRPC is not loaded for --help and for mistakes
    from commander.serve import serve  # noqa: PLC0415 - as above

    try_files(told)
    return serve(told, agents)


def _ask(told: settings.Settings, arguments: argparse.Namespace) -> int:
    if not arguments.text.strip():
        raise loading.TargetError("TEXT: is empty; say what to ask")
    logs.configure(told.log_format, "warning" if told.log_level == "info" else told.log_level)
    agents = loading.load([arguments.agent])
    if len(agents) > 1:
        names = ", ".join(agent.label for agent in agents.values())
        raise loading.TargetError(f"--agent {arguments.agent}: it holds several agents; name one of: {names}")
    (agent,) = agents.values()
    return _ask_agent(told, agent, arguments.text, as_json=arguments.json)


def _ask_agent(told: settings.Settings, agent: AnyAgent, text: str, *, as_json: bool) -> int:
    from commander.ask import Asking, Exit  # noqa: PLC0415 - as in _run
    from commander.dialing import try_files  # noqa: PLC0415
    from commander.printer import Printer  # noqa: PLC0415
    from commander.serve import bounds, loop_factory  # noqa: PLC0415

    try_files(told)
    has_ended = False
    is_read = True

    async def ask() -> int:
        nonlocal has_ended
        loop = asyncio.get_running_loop()

        def left() -> None:
            nonlocal is_read
            is_read = False
            loop.call_soon_threadsafe(asking.stop, "whoever read the output has left")

        out, err = _Output(sys.stdout, left), _Output(sys.stderr, left)
        printer = Printer(cast("TextIO", out), cast("TextIO", err), as_json=as_json)
        asking = Asking(told, agent, text, bounds(told), printer)

        def interrupted(*_: object) -> None:
            # The second time even an agent that blocks the loop must not keep us.
            signal.signal(signal.SIGINT, lambda *_: _leave(Exit.STOPPED))
            loop.call_soon_threadsafe(asking.stop, "interrupted here")

        signal.signal(signal.SIGINT, interrupted)
        try:
            code = await asking.run()
        finally:
            has_ended = asking.has_ended
        exit_code = int(code) if is_read else EXIT_PIPE_CLOSED
        if not has_ended and code is not Exit.UNREACHABLE:
            _leave(exit_code)
        return exit_code

    with asyncio.Runner(loop_factory=loop_factory(told.event_loop)) as runner:
        return runner.run(ask())


class _Output:
    """A stream for as long as somebody reads it. Then `left` is called, from the thread that writes, and what is
    written goes nowhere: the agent gets to clean up."""

    def __init__(self, stream: TextIO, left: Callable[[], None]) -> None:
        self._stream = stream
        self._left = left

    def write(self, text: str) -> None:
        self._attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def _attempt(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BrokenPipeError:
            _discard(self._stream)
            self._left()


def _discard(stream: TextIO) -> None:
    """From now on what is written there, and what waits in its buffer, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _leave(exit_code: int) -> None:
    """Ends the process beside an agent that does not end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _agents(targets: Sequence[str], *, as_json: bool) -> int:
    names = targets or sorted({entry.name for entry in entry_points(group=loading.GROUP)})
    agents: Mapping[tuple[str, str], AnyAgent] = loading.load(names)
    if as_json:
        for agent in agents.values():
            row = {
                "name": agent.name,
                "version": agent.version,
                "kind": agent.kind.value,
                "on_restart": agent.on_restart,
                "description": agent.description,
            }
            print(json.dumps(row, ensure_ascii=False))
        return 0
    rows = [(agent.label, agent.kind.value, agent.on_restart, agent.description) for agent in agents.values()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1, 2)]
    for *cells, description in rows:
        aligned = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
        print("  ".join([*aligned, description]).rstrip())
    return 0
