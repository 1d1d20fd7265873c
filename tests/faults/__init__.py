"""What the tests of faults share: agents whose every byte is known, a tool that tells of each of its runs, viewers who
come back, and what must hold when all is over."""
