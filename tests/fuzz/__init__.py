"""Fuzzing of a real dispatcher: bytes and orders of packets on ChatStream, Chat and Admin.

A case (`case.py`) is a short text that says what is sent on which stream. `invention.py` makes cases out of numbers,
from what `packets.py` and `oddities.py` know; `player.py` plays one; `ground.py` runs the dispatcher and judges it
after each. `tests/test_fuzz.py` replays the corpus and, in `make slow`, makes cases for as long as it may.
"""
