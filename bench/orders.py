"""A program's side of its orders: lines of JSON on standard input, each answered by one on standard output.

Orders are taken in a thread of their own, so that the program's loop does nothing for them while it is measured.
When the input ends, the bench is gone, and the program with it.
"""

import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Orders = Mapping[str, Callable[..., Any]]


def obey(orders: Orders) -> None:
    """Begins to take orders: `{"order": name, …}`, whose other members are arguments, gives `{"answer": …}`."""
    everything = {"cpu": cpu_s, "memory": memory_bytes, **orders}
    threading.Thread(target=_obey, args=(everything,), name="orders", daemon=True).start()


def _obey(orders: Orders) -> None:
    for line in sys.stdin:
        told = json.loads(line)
        try:
            answer = {"answer": orders[told.pop("order")](**told)}
        except Exception:  # noqa: BLE001 - told to the bench, which shows it
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def cpu_s() -> float:
    """What this process has used of processors so far, its native threads included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """What of this process is in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
