"""Pure decisions of a commander: what a turn owes, whose turn it is on the link, what a stop does next.

Nothing in here awaits, reads a clock, draws a random number, logs, or knows gRPC. Time is an argument, always
monotonic seconds; payloads are opaque. The one thing it knows of threads is written at `outbox.Outbox` and
`batch.Rotation`: which methods belong to the agent's thread and which to the link's.
"""
