"""What an operator does: stop, list, look, drain, change limits. One function a command, one answer each.

A command gets its flags as parsed and a connection, prints what came of it, and returns the exit status.
Called by `dispatcher.cli`. How the answers look is `listing`'s.
"""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from southwest.ai.agent.v1 import admin_pb2, chat_pb2

from dispatcher.console import listing
from dispatcher.console.arguments import duration, login_name, selector_of, stop_code
from dispatcher.console.connection import Connection, missing_session
from dispatcher.console.outcome import ConsoleError, Exit

PAGE_SESSIONS = 200  # well below the largest message, however long their labels


async def stop(arguments: argparse.Namespace, connection: Connection) -> Exit:
    """Stops the sessions named, or those that match. An unknown id does not save the others."""
    selector = selector_of(arguments)
    if arguments.sessions and selector is not None:
        raise ConsoleError(
            "stop takes session ids or a selector (--all, --user, --agent, --commander, --label), not both",
            Exit.USAGE,
        )
    if selector is not None and selector.all and len(selector.ListFields()) > 1:
        raise ConsoleError(
            "--all means every session: leave it out to stop only those that match the rest", Exit.USAGE
        )
    if selector is not None:
        return await _stop_matching(arguments, connection, selector)
    if not arguments.sessions:
        raise ConsoleError(
            "nothing is selected: name sessions, or say --user, --agent, --commander, --label or --all",
            Exit.USAGE,
        )
    status = Exit.COMPLETED
    for session_id in dict.fromkeys(arguments.sessions):
        try:
            await _stop_one(arguments, connection, session_id)
        except ConsoleError as trouble:
            if trouble.exit_status is not Exit.REFUSED:
                raise
            listing.complain(f"dispatcher: {trouble}")
            status = trouble.exit_status
    return status


async def _stop_one(arguments: argparse.Namespace, connection: Connection, session_id: str) -> None:
    request = admin_pb2.StopSessionRequest(
        session_id=session_id,
        reason=arguments.reason,
        code=stop_code(arguments.code),
        actor=login_name() if arguments.actor is None else arguments.actor,
        grace=duration(arguments.grace_s),
    )
    answer = await connection.ask(connection.admin.StopSession, request, missing_session(session_id))
    listing.stopped(session_id, answer, as_json=arguments.json)


async def _stop_matching(
    arguments: argparse.Namespace, connection: Connection, selector: admin_pb2.SessionSelector
) -> Exit:
    request = admin_pb2.StopSessionsRequest(
        selector=selector,
        reason=arguments.reason,
        code=stop_code(arguments.code),
        actor=login_name() if arguments.actor is None else arguments.actor,
        grace=duration(arguments.grace_s),
    )
    answer = await connection.ask(connection.admin.StopSessions, request)
    listing.stopped_matching(answer, as_json=arguments.json)
    return Exit.COMPLETED


async def sessions(arguments: argparse.Namespace, connection: Connection) -> Exit:
    selector = selector_of(arguments) or admin_pb2.SessionSelector(all=True)
    views: list[admin_pb2.SessionView] = []
    token = ""
    while True:
        request = admin_pb2.ListSessionsRequest(
            selector=selector,
            include_ended=arguments.all_ended,
            page_size=min(PAGE_SESSIONS, arguments.limit - len(views)),
            page_token=token,
        )
        page = await connection.ask(connection.admin.ListSessions, request)
        views.extend(page.sessions[: arguments.limit - len(views)])
        token = page.next_page_token
        if not token or len(views) >= arguments.limit:
            break
    listing.sessions(views, as_json=arguments.json)
    if token:
        listing.complain(f"there are more than {arguments.limit} sessions: raise --limit, or select fewer")
    return Exit.COMPLETED


async def session(arguments: argparse.Namespace, connection: Connection) -> Exit:
    request = admin_pb2.GetSessionRequest(session_id=arguments.session)
    missing = missing_session(arguments.session)
    answer = await connection.ask(connection.admin.GetSession, request, missing)
    listing.session(answer.session, as_json=arguments.json)
    return Exit.COMPLETED


async def _pages(connection: Connection, method: Any, request: Any) -> AsyncIterator[Any]:
    """All pages of a listing, whose requests and answers bear a token."""
    while True:
        page = await connection.ask(method, request)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return


async def commanders(arguments: argparse.Namespace, connection: Connection) -> Exit:
    pages = _pages(connection, connection.admin.ListCommanders, admin_pb2.ListCommandersRequest())
    views = [view async for page in pages for view in page.commanders]
    listing.commanders(views, as_json=arguments.json)
    return Exit.COMPLETED


async def agents(arguments: argparse.Namespace, connection: Connection) -> Exit:
    pages = _pages(connection, connection.chat.ListAgents, chat_pb2.ListAgentsRequest())
    listings = [each async for page in pages for each in page.agents]
    listing.agents(listings, as_json=arguments.json)
    return Exit.COMPLETED


async def tools(arguments: argparse.Namespace, connection: Connection) -> Exit:
    request = admin_pb2.ListToolsRequest()
    answer = await connection.ask(connection.admin.ListTools, request)
    listing.tools(list(answer.tools), as_json=arguments.json)
    return Exit.COMPLETED


async def drain(arguments: argparse.Namespace, connection: Connection) -> Exit:
    deadline = duration(arguments.deadline_s)
    running: admin_pb2.DrainCommanderResponse | admin_pb2.DrainResponse
    if arguments.commander:
        one = admin_pb2.DrainCommanderRequest(
            commander_id=arguments.commander, reason=arguments.reason, deadline=deadline
        )
        missing = (
            f"no commander {arguments.commander} is connected: `dispatcher commanders` lists those that are"
        )
        running = await connection.ask(connection.admin.DrainCommander, one, missing)
    else:
        every = admin_pb2.DrainRequest(reason=arguments.reason, deadline=deadline)
        running = await connection.ask(connection.admin.Drain, every)
    listing.draining(arguments.commander, running.running, as_json=arguments.json)
    return Exit.COMPLETED


async def limits(arguments: argparse.Namespace, connection: Connection) -> Exit:
    if arguments.set or arguments.mode:
        change = admin_pb2.SetLimitsRequest(values=arguments.set, modes=arguments.mode)
        changed = await connection.ask(connection.admin.SetLimits, change)
        listing.limits(list(changed.limits), as_json=arguments.json)
        return Exit.COMPLETED
    answer = await connection.ask(connection.admin.GetLimits, admin_pb2.GetLimitsRequest())
    listing.limits(list(answer.limits), as_json=arguments.json)
    return Exit.COMPLETED


OPERATIONS: Final[dict[str, Callable[[argparse.Namespace, Connection], Awaitable[Exit]]]] = {
    "agents": agents,
    "commanders": commanders,
    "drain": drain,
    "limits": limits,
    "session": session,
    "sessions": sessions,
    "stop": stop,
    "tools": tools,
}
