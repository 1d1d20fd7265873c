"""Tells one run step by step: `python -m simulation SEED` in tests/."""

import sys

from simulation.world import World

world = World(int(sys.argv[1]), keeps_transcript=True)
try:
    world.run()
finally:
    print("\n".join(world.transcript))
