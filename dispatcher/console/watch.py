"""Watching a session from outside: all its events, thoughts included, to its ending. Changes nothing.

Called by `dispatcher.cli`.
"""

import argparse

from southwest.ai.agent.v1 import admin_pb2, chat_pb2

from dispatcher.console.account import Account
from dispatcher.console.conclusion import conclude
from dispatcher.console.connection import Connection
from dispatcher.console.following import EventStream, follow
from dispatcher.console.outcome import ConsoleError, Exit
from dispatcher.console.view import View
from dispatcher.console.whole import shown


async def run(arguments: argparse.Namespace, connection: Connection) -> Exit:
    """The command `watch`."""
    if arguments.answer and arguments.cursor is not None:
        raise ConsoleError("--answer prints all of the answer: leave out --cursor", Exit.USAGE)
    return await shown(arguments, lambda view: watch(connection, arguments.session, arguments.cursor, view))


async def watch(connection: Connection, session_id: str, cursor: chat_pb2.Cursor | None, view: View) -> Exit:
    """Shows the events after `cursor`, or all. Raises ConsoleError where there is no ending to tell of."""
    account = Account(cursor)

    def open_stream(after: chat_pb2.Cursor | None) -> EventStream:
        request = admin_pb2.WatchSessionRequest(session_id=session_id, cursor=after)
        return connection.admin.WatchSession(request, metadata=connection.metadata)

    def take(batch: chat_pb2.SessionEvents) -> bool:
        for event in batch.events:
            if account.take(event):
                view.show(event)
        view.flush()
        return account.over

    try:
        first = open_stream(cursor)
        await follow(connection, first, open_stream, account, take, view.notice, session_id, heard=False)
    finally:
        view.close()
    return conclude(account, session_id, view)
