"""Plays cases alone, each against a dispatcher of its own: `python -m fuzz replay FILE…` in tests/."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.case import Case
from fuzz.ground import BrokenError, standing_ground


def main(argv: Sequence[str]) -> int:
    if len(argv) < 2 or argv[0] != "replay":
        print("usage: python -m fuzz replay FILE…", file=sys.stderr)
        return 2
    for name in argv[1:]:
        try:
            with standing_ground() as ground:
                played = ground.play(Case.parse(Path(name).read_text()))
        except BrokenError as broken:
            print(f"{name}: {broken}")
            return 1
        print(f"{name}: nothing broke")
        for line in played:
            print(f"  {line}")
    return 0


sys.exit(main(sys.argv[1:]))
