"""Tells one run step by step: `python -m simulation SEED` in tests/."""

import argparse

from simulation.world import World

parser = argparse.ArgumentParser(prog="python -m simulation", description="Tells one run step by step.")
parser.add_argument("seed", type=int, metavar="SEED", help="a whole number, as a failing test prints it")
world = World(parser.parse_args().seed, keeps_transcript=True)
try:
    world.run()
finally:
    print("\n".join(world.transcript))
