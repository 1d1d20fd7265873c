"""Pure decisions: events in, effects out.

Nothing in here awaits, reads a clock, draws a random number, logs, or knows gRPC. Time and minted ids are
arguments. So each decision is atomic without a lock, and the simulation can run it a million times a minute.
"""
