"""In which life of the machine a journal's file is in use. The file itself says so while it is, so that the next start
can tell what an end without a farewell means: a process that was killed has lost nothing that it had written, a
machine that went down may have.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from dispatcher.journal.records import EPOCH, RecordError, place

# Beside the epoch.
LIFE: Final = place(EPOCH, 1)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Life:
    """`boot` is empty where the system does not say. `power_safe`: commits waited for the disk. `inode`: of the file,
    which a copy of it does not have."""

    boot: str
    power_safe: bool
    inode: int

    def why_it_lacks(self, now: "Life") -> str:
        """Why commits of this life may be missing in the one that is `now`; empty where none can be."""
        if self.inode != now.inode:
            return "it is a copy of a file that was in use"
        if self.power_safe or self.is_same_boot(now):
            return ""
        return "the machine went down while it was in use, and commits had not waited for the disk"

    def is_same_boot(self, now: "Life") -> bool:
        """The machine has not been down since. What nobody knows counts as another boot."""
        return bool(self.boot) and self.boot == now.boot


_LIFE: Final = TypeAdapter(Life)


def life(value: Any) -> Life:
    """Raises RecordError."""
    try:
        return _LIFE.validate_python(value)
    except ValidationError as error:
        raise RecordError(f"{error.error_count()} of its fields are wrong") from None


def boot_id() -> str:
    """Of this life of the machine; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
