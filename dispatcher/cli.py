"""The command line: which commands there are, what their flags mean, and what each one's help teaches.

`serve` runs a dispatcher; every other command is a client of one, over gRPC like any application. Nothing
heavy is imported before the command is known, so that `--help` is quick. Each command returns an exit
status, which `console.outcome` numbers and `console.guide` explains.
"""

import argparse
import asyncio
import difflib
import gc
import importlib.metadata
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

from dispatcher.console import arguments as flags
from dispatcher.console.escaping import safe_text
from dispatcher.console.guide import EXIT_STATUSES, GROUPS, LESSONS, PURPOSE, Lesson
from dispatcher.console.outcome import ConsoleError, Exit

if TYPE_CHECKING:
    from dispatcher.console.connection import Connection

# So many new objects start the first collection. What is imported stays: to look through it again and again, as the
# interpreter does by itself, takes a tenth of the start.
YOUNG_OBJECTS_MAX: Final = 50_000


@dataclass(frozen=True)
class Command:
    """What a command takes and what it does."""

    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    if argv is None:  # the process is ours
        gc.set_threshold(YOUNG_OBJECTS_MAX)
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            return _run(words)
        finally:
            if sys.stdout is not None:  # there may be none
                sys.stdout.flush()
    except ConsoleError as trouble:
        print(f"dispatcher: {safe_text(str(trouble))}", file=sys.stderr)
        return trouble.exit_status
    except KeyboardInterrupt:
        return Exit.LEFT
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE_CLOSED


def _run(words: Sequence[str]) -> int:
    _refuse_undecodable(words)
    parser, subparsers = _parser()
    named = next((word for word in words if not word.startswith("-")), "")
    near = difflib.get_close_matches(named, [lesson.name for lesson in LESSONS], n=1)
    if near and near[0] != named:
        parser.error(f"there is no command {named!r}; did you mean {near[0]!r}?")
    for lesson in LESSONS:
        own = _add(subparsers, lesson)
        # Only the command asked for gets its flags: those of `serve` come from the settings, slow to import.
        if lesson.name == named:
            COMMANDS[named].add_flags(own)
    parsed, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, parsed)}")
    if parsed.command is None:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    return COMMANDS[parsed.command].run(parsed)


def _refuse_undecodable(words: Sequence[str]) -> None:
    """Python keeps bytes that are no text as surrogates, which nothing later can send."""
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            encoding = sys.getfilesystemencoding()
            shown = os.fsencode(word).decode(encoding, "replace")
            raise ConsoleError(
                f"{shown!r} is not in {encoding.upper()}, which the words of a command line have to be here: type it "
                "anew, or set LC_ALL to the encoding it is in",
                Exit.USAGE,
            )


def _parser() -> "tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]":
    listing = []
    for group, purpose in GROUPS:
        listing.append(f"{group} - {purpose}:")
        listing += [f"  {lesson.name:<12}{lesson.summary}" for lesson in LESSONS if lesson.group == group]
        listing.append("")
    parser = argparse.ArgumentParser(
        prog="dispatcher",
        description=PURPOSE,
        epilog="\n".join([*listing, EXIT_STATUSES]),
        formatter_class=_Formatter,
        usage="dispatcher COMMAND …",
    )
    parser.add_argument("--version", action="version", version=f"chatstream {_version()}")
    return parser, parser.add_subparsers(
        prog="dispatcher", dest="command", metavar="COMMAND", help=argparse.SUPPRESS
    )


def _meant(unknown: Sequence[str], parsed: argparse.Namespace) -> str:
    """The nearest flag of the same command, where one is near."""
    flags = [f"--{name.replace('_', '-')}" for name in vars(parsed)]
    for word in unknown:
        near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
        if near:
            return f"; did you mean {near[0]}?"
    return ""


def _version() -> str:
    try:
        return importlib.metadata.version("chatstream")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree that was not installed"


class _Formatter(argparse.HelpFormatter):
    """Wraps the description and leaves the epilog, which holds the examples, as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


def _add(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", lesson: Lesson
) -> argparse.ArgumentParser:
    lines = ["examples:"]
    for line, purpose in lesson.examples:
        lines += [f"  {line}", f"      {purpose}"]
    return subparsers.add_parser(
        lesson.name,
        description=lesson.description,
        epilog="\n".join(lines),
        formatter_class=_Formatter,
        allow_abbrev=False,  # a script that abbreviates breaks when a flag is added
    )


# serve


def _serve_flags(parser: argparse.ArgumentParser) -> None:
    from dispatcher.settings import Settings, add_arguments  # noqa: PLC0415 - slow, and only this command needs it

    add_arguments(parser, Settings.model_fields)


def _serve(arguments: argparse.Namespace) -> int:
    from dispatcher.settings import SettingsError, load, render  # noqa: PLC0415 - as above

    try:
        loaded = load(arguments, os.environ)
    except SettingsError as error:
        for line in str(error).splitlines():
            print(f"dispatcher: {line}", file=sys.stderr)
        return Exit.USAGE
    if arguments.print_config:
        print(render(loaded), end="")
        return Exit.COMPLETED
    # gRPC's C core writes lines of its own to standard error, one for each client that gets TLS wrong; a log of
    # JSON would not be JSON. To be set before the import.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from dispatcher.serve import run  # noqa: PLC0415 - as above

    return run(loaded)


# use and operate


def _add_answer_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--answer",
        action="store_true",
        help="print nothing but the answer, once it is whole and checked, and nothing where it is not",
    )


def _client(
    add_own: Callable[[argparse.ArgumentParser], None],
) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        add_own(parser)
        parser.add_argument(
            "--json",
            action="store_true",
            help="one JSON object per line on standard output; problems are told on standard error",
        )
        flags.add_connection(parser, os.environ)

    return add


def _over_grpc(
    find: Callable[[], "Callable[[argparse.Namespace, Connection], Awaitable[int]]"],
) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        # What gRPC's own log would say is in the error as well. To be set before the import.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from dispatcher.console.connection import Connection, Endpoint  # noqa: PLC0415 - grpc is slow to import

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # an answer in a script that the locale lacks is no crash
                stream.reconfigure(errors="backslashreplace")
        endpoint = Endpoint.of(arguments)

        async def ask() -> int:
            async with Connection(endpoint) as connection:
                return await find()(arguments, connection)

        return asyncio.run(ask())

    return run


def _operation(name: str) -> Callable[[argparse.Namespace], int]:
    def find() -> "Callable[[argparse.Namespace, Connection], Awaitable[int]]":
        from dispatcher.console import operate  # noqa: PLC0415 - grpc is slow to import

        return operate.OPERATIONS[name]

    return _over_grpc(find)


def _find_chat() -> "Callable[[argparse.Namespace, Connection], Awaitable[int]]":
    from dispatcher.console.chat import run  # noqa: PLC0415 - grpc is slow to import

    return run


def _steering(name: str) -> Callable[[argparse.Namespace], int]:
    def find() -> "Callable[[argparse.Namespace, Connection], Awaitable[int]]":
        from dispatcher.console import steer  # noqa: PLC0415 - grpc is slow to import

        return steer.answer if name == "answer" else steer.say

    return _over_grpc(find)


def _find_watch() -> "Callable[[argparse.Namespace, Connection], Awaitable[int]]":
    from dispatcher.console.watch import run  # noqa: PLC0415 - grpc is slow to import

    return run


def _chat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", type=flags.text_to_ask, help="what to ask")
    parser.add_argument(
        "--agent", metavar="AGENT", type=flags.word, help="the agent to ask (default: the only one)"
    )
    parser.add_argument("--agent-version", metavar="V", type=flags.word, help="only this version of it")
    for flag, purpose in (
        ("--label", "put on the session, so that operators can find and stop it by it"),
        ("--commander-label", "only commanders with this label"),
        ("--metadata", "handed to the agent"),
    ):
        parser.add_argument(
            flag, metavar="K=V", type=flags.key_value, action=flags.Pairs, default={}, help=purpose
        )
    parser.add_argument("--user", metavar="USER", type=flags.word, help="whose session it is")
    parser.add_argument(
        "--thoughts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show the agent's reasoning (default: yes)",
    )
    parser.add_argument(
        "--stop-when-left",
        metavar="SECONDS",
        type=flags.seconds,
        help="stop the session when nobody has watched it for so long, 0: at once (default: it goes on)",
    )
    _add_answer_flag(parser)


def _answer_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", type=flags.word, help="the session's id")
    parser.add_argument("question", metavar="QUESTION", type=flags.word, help="the question's id")
    parser.add_argument(
        "value",
        metavar="VALUE",
        nargs="?",
        help="the answer: an option's text or number, JSON where a schema asks for it, else any text",
    )
    parser.add_argument("--decline", action="store_true", help="tell the agent that nobody will answer")
    parser.add_argument(
        "--attempt",
        metavar="N",
        type=flags.count,
        help="the attempt that asks; to be said where one before it has asked under the same id",
    )


def _say_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", type=flags.word, help="the session's id")
    parser.add_argument("text", metavar="TEXT", type=flags.text_to_ask, help="what to tell its agent")


def _watch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", type=flags.word, help="the session's id")
    parser.add_argument(
        "--cursor", metavar="EPOCH:OFFSET", type=flags.cursor, help="only what came after this event"
    )
    _add_answer_flag(parser)


def _stop_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sessions", metavar="SESSION", nargs="*", type=flags.word, help="ids of sessions")
    flags.add_selector(parser, everything=True)
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="told to the agent, the viewers and the audit trail"
    )
    parser.add_argument("--code", choices=flags.STOP_CODES, help="the kind of reason (default: admin)")
    parser.add_argument(
        "--actor", metavar="NAME", help="who stops it, where no token says so (default: the login name)"
    )
    parser.add_argument(
        "--grace-s",
        metavar="S",
        type=flags.seconds,
        help="how long the agent has to end (default: the dispatcher's)",
    )


def _sessions_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_selector(parser, everything=False)
    parser.add_argument(
        "--all-ended", action="store_true", help="those that have ended too, as long as they are kept"
    )
    parser.add_argument(
        "--limit", metavar="N", type=flags.count, default=1_000, help="at most so many (default: 1000)"
    )


def _session_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", type=flags.word, help="the session's id")


def _drain_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--commander", metavar="ID", type=flags.word, help="this commander (default: the dispatcher itself)"
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="told to whom it concerns")
    parser.add_argument(
        "--deadline-s",
        metavar="S",
        type=flags.seconds,
        help="what runs has so long to end (default: the drain_deadline_s of the commander or dispatcher drained)",
    )


def _limits_flags(parser: argparse.ArgumentParser) -> None:
    from dispatcher.limits import MODES  # noqa: PLC0415 - slow, and only this command needs it

    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        type=flags.name_number,
        action=flags.Pairs,
        default={},
        help="change a limit",
    )
    parser.add_argument(
        "--mode",
        metavar="NAME=MODE",
        type=flags.name_mode,
        action=flags.Pairs,
        default={},
        help="let a limit that is a policy end sessions (enforce) or only count (observe); NAME is one of "
        f"{', '.join(sorted(set(MODES.values())))}, or a limit that the table shows it with",
    )


def _no_flags(parser: argparse.ArgumentParser) -> None:
    """Nothing beside the connection's."""


COMMANDS: Final[dict[str, Command]] = {
    "serve": Command(_serve_flags, _serve),
    "chat": Command(_client(_chat_flags), _over_grpc(_find_chat)),
    "answer": Command(_client(_answer_flags), _steering("answer")),
    "say": Command(_client(_say_flags), _steering("say")),
    "agents": Command(_client(_no_flags), _operation("agents")),
    "sessions": Command(_client(_sessions_flags), _operation("sessions")),
    "session": Command(_client(_session_flags), _operation("session")),
    "watch": Command(_client(_watch_flags), _over_grpc(_find_watch)),
    "stop": Command(_client(_stop_flags), _operation("stop")),
    "commanders": Command(_client(_no_flags), _operation("commanders")),
    "tools": Command(_client(_no_flags), _operation("tools")),
    "drain": Command(_client(_drain_flags), _operation("drain")),
    "limits": Command(_client(_limits_flags), _operation("limits")),
}
