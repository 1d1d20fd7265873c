"""`make demo`: a dispatcher and two commanders, three processes, and a real conversation with a stop in it.

Needs no key and no service, takes ports that are free, and ends whatever it has started.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

_EXIT_FAILED = 1
_EXIT_PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave the processes running until Ctrl-C, to try things by hand"
    )
    keep = parser.parse_args(argv).keep
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a character that the locale lacks is no reason to end
            stream.reconfigure(errors="backslashreplace")
    # What gRPC's own log would say is in the errors as well. To be set before the import.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from scripts.demo_processes import DemoError  # noqa: PLC0415 - as said
    from scripts.demo_show import Show  # noqa: PLC0415 - as said

    async def show() -> int:
        return await Show(keep=keep).run()

    try:
        return asyncio.run(show())
    except DemoError as error:
        sys.stdout.flush()
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except BrokenPipeError:
        # Whoever read along has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
