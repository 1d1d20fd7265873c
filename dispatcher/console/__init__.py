"""The command line's rooms: a client of the Chat and Admin services, as any other program could be.

Nothing here knows the inside of a dispatcher; what it sees, it sees over gRPC. `dispatcher.cli` is the only
caller.
"""
