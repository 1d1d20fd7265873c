"""Program: a real commander with the bench's agents. Takes the flags of `commander run`, and orders."""

import sys

import commander.cli
from bench import agents
from bench.orders import obey

if __name__ == "__main__":
    obey({"noted": agents.noted})
    sys.exit(commander.cli.main(["run", agents.__name__, *sys.argv[1:]]))
