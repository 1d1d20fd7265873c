"""The HTTP edge: browsers, apps and clients of other people's protocols come in, and can come back.

One app in the dispatcher's own loop. Every way of watching shows the same events with the same cursors; a dialect is a
file that renders them. Nothing here knows gRPC.
"""
