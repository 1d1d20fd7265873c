"""The flags that several commands share, and what their values mean. Each wrong value names its flag.

Used by `dispatcher.cli` to build its parser and by the commands to read what was parsed.
"""

import argparse
import getpass
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

ADDRESS_VARIABLE = "CHATSTREAM_DISPATCHER"  # not DISPATCHER_…: those are settings of the dispatcher itself
DEFAULT_ADDRESS = "127.0.0.1:50051"
STOP_CODES = ("user-cancel", "admin", "policy-violation", "limit", "risk-control")
_MODES = ("enforce", "observe")
_LONGEST_S = 31_536_000.0  # a year, well within what a Duration holds
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})")


def add_connection(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    group = parser.add_argument_group("the dispatcher to talk to")
    group.add_argument(
        "--dispatcher",
        metavar="HOST:PORT",
        type=address,
        # A string default goes through `address` as well, so a wrong variable is an error too.
        default=environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS,
        help=f"its gRPC address, or unix:PATH (default: ${ADDRESS_VARIABLE}, else {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--timeout-s",
        metavar="S",
        type=positive_seconds,
        default=10.0,
        help="how long to wait for an answer (default: 10)",
    )
    group.add_argument("--tls", action="store_true", help="use TLS, trusting the system's authorities")
    group.add_argument(
        "--tls-ca", metavar="FILE", type=Path, help="use TLS, trusting the authorities in this PEM file"
    )
    group.add_argument(
        "--tls-certificate",
        metavar="FILE",
        type=Path,
        help="show this certificate chain, PEM, where the dispatcher demands one; needs --tls-key, and TLS",
    )
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="the key of --tls-certificate, PEM")
    group.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="a file that holds the token to show; never sent in plain text",
    )


def add_selector(parser: argparse.ArgumentParser, everything: bool) -> None:
    group = parser.add_argument_group("which sessions", "What is given must all hold.")
    if everything:
        group.add_argument("--all", action="store_true", help="every session there is")
    group.add_argument("--user", metavar="USER", type=word, help="those of this user")
    group.add_argument("--agent", metavar="AGENT", type=word, help="those of this agent")
    group.add_argument("--commander", metavar="ID", type=word, help="those that this commander runs")
    group.add_argument(
        "--label", metavar="K=V", type=key_value, action=Pairs, default={}, help="those with this label"
    )


def selector_of(arguments: argparse.Namespace) -> admin_pb2.SessionSelector | None:
    """What `add_selector` declared; None when nothing was given."""
    selector = admin_pb2.SessionSelector(
        user_id=arguments.user or "",
        agent=arguments.agent or "",
        commander_id=arguments.commander or "",
        labels=arguments.label,
    )
    if getattr(arguments, "all", False):
        selector.all = True
    return selector if selector.ListFields() else None


def address(text: str) -> str:
    """HOST:PORT or unix:PATH."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address: it is HOST:PORT with a port from 1 to 65535, "
            f"such as {DEFAULT_ADDRESS}, or unix:PATH"
        )
    return text


def key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE, such as region=eu")
    return key, value


def name_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        mend = "; a mode is changed with --mode" if value in _MODES else ""
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=NUMBER, such as queue_wait_s=30{mend}")
    return name, number


def name_mode(text: str) -> tuple[str, str]:
    name, _, mode = text.partition("=")
    if not name or mode not in _MODES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no NAME=MODE, such as deny_mode=observe: the mode is {' or '.join(_MODES)}"
        )
    return name, mode


class Pairs(argparse.Action):
    """Gathers pairs into a dict; the same key twice is an error, as one of the two would not count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        key, value = cast("tuple[str, object]", values)  # what the flag's type returned
        gathered = dict(getattr(namespace, self.dest))
        if key in gathered:
            raise argparse.ArgumentError(self, f"{key} is given twice")
        gathered[key] = value
        setattr(namespace, self.dest, gathered)


def _seconds(least: float, beyond: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= _LONGEST_S:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds {beyond}")
        return number

    return parse


seconds = _seconds(0, "from 0")
positive_seconds = _seconds(0.001, "from 0.001")


def count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 1000000")
    return int(text)


def cursor(text: str) -> chat_pb2.Cursor:
    """EPOCH:OFFSET, as the status line and --json print it."""
    epoch, colon, offset = text.rpartition(":")
    if not epoch or not colon or not (offset.isascii() and offset.isdecimal()) or int(offset) >= 2**64:
        raise argparse.ArgumentTypeError(f'{text!r} is no EPOCH:OFFSET, as --json prints it under "cursor"')
    return chat_pb2.Cursor(epoch=epoch, offset=int(offset))


def word(text: str) -> str:
    """Something that is there: an empty variable in a script must not come to mean everything."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty: give one, or leave the flag out")
    return text


def text_to_ask(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty: say what to ask, in quotes")
    return text


def stop_code(word: str | None) -> agent_pb2.StopCode.ValueType:
    """One of STOP_CODES; None for what the dispatcher takes it for by itself."""
    if word is None:
        return agent_pb2.STOP_CODE_UNSPECIFIED
    return agent_pb2.StopCode.Value(f"STOP_CODE_{word.upper().replace('-', '_')}")


def duration(seconds_or_none: float | None) -> Duration | None:
    if seconds_or_none is None:
        return None
    told = Duration()
    told.FromTimedelta(timedelta(seconds=seconds_or_none))
    return told


def login_name() -> str:
    """Whoever runs this, for the audit trail; empty where the system has no name for them that can be sent."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return ""
    return name if name.isprintable() else ""
