"""Answers and messages to a session that was opened elsewhere: the commands `answer` and `say`.

A command gets its flags as parsed and a connection, tells the session one thing, prints what came of it, and returns
the exit status. Called by `dispatcher.cli`.
"""

import argparse
import json
import uuid
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.console import listing
from dispatcher.console.answers import UnfitError, value_json
from dispatcher.console.conclusion import refusal_text
from dispatcher.console.connection import Connection, missing_session, unanswered
from dispatcher.console.errand import UnsaidError, tell
from dispatcher.console.outcome import ConsoleError, Exit

# What can be done about a refusal, by its code.
_MENDS: Final = {
    "session_ended": "nothing can be told to it any more; ask again with `dispatcher chat`",
    "no_such_question": "`dispatcher session {session}` shows those that are open",
    "too_many_messages": "wait until the agent has read some",
}


async def answer(arguments: argparse.Namespace, connection: Connection) -> Exit:
    """The command `answer`."""
    if arguments.decline == (arguments.value is not None):
        raise ConsoleError("say what to answer, or --decline: one of the two", Exit.USAGE)
    asked = chat_pb2.AnswerQuestion(question_id=arguments.question, attempt=arguments.attempt)
    if arguments.decline:
        asked.decline = True
    else:
        question = await _question(arguments, connection)
        try:
            asked.value_json = (
                _guessed(arguments.value) if question is None else value_json(question, arguments.value)
            )
        except UnfitError as unfit:
            raise ConsoleError(str(unfit), Exit.REFUSED) from None
    await _tell(arguments.session, connection, answer=asked)
    value = None if arguments.decline else asked.value_json
    listing.answered(arguments.session, arguments.question, value, as_json=arguments.json)
    return Exit.COMPLETED


async def say(arguments: argparse.Namespace, connection: Connection) -> Exit:
    """The command `say`."""
    receipt = await _tell(arguments.session, connection, message=chat_pb2.AddMessage(text=arguments.text))
    listing.said(arguments.session, receipt.message_id, as_json=arguments.json)
    return Exit.COMPLETED


async def _question(arguments: argparse.Namespace, connection: Connection) -> agent_pb2.Question | None:
    """The question, so that what is typed can be an option's number, or a text without quotes. None: it is not told,
    as only an administrator may look, or as it is not open, which the dispatcher says better."""
    request = admin_pb2.GetSessionRequest(session_id=arguments.session)
    try:
        view = await connection.admin.GetSession(
            request, timeout=connection.timeout_s, metadata=connection.metadata
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            return None
        raise connection.trouble(error, missing_session(arguments.session)) from None
    questions = view.session.open_questions
    return next((each for each in questions if each.question_id == arguments.question), None)


def _guessed(line: str) -> str:
    """What is JSON as it is, anything else as a text."""
    try:
        return json.dumps(json.loads(line, parse_constant=_no_constant), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(line, ensure_ascii=False)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


async def _tell(session_id: str, connection: Connection, **request: Any) -> chat_pb2.Receipt:
    """Raises ConsoleError."""
    packet = chat_pb2.ClientPacket(session_id=session_id, request_id=uuid.uuid4().hex, **request)
    try:
        receipt = await tell(connection, packet)
    except UnsaidError as unsaid:
        if unsaid.status is not None and unsaid.arrived is False:
            raise connection.trouble(unsaid.status) from None
        if unsaid.status is not None and unsaid.status.code() is not grpc.StatusCode.UNAVAILABLE:
            raise connection.trouble(unsaid.status) from None
        if unsaid.arrived is False:
            raise unanswered(connection.endpoint) from None
        raise ConsoleError(
            f"it is not known whether this arrived ({unsaid}): `dispatcher watch {session_id}` shows it if it did",
            Exit.UNREACHABLE,
        ) from None
    if receipt.HasField("error"):
        if receipt.error.code == "unknown_session":
            raise ConsoleError(missing_session(session_id), Exit.REFUSED)
        mend = _MENDS.get(receipt.error.code, "").format(session=session_id)
        text = refusal_text(receipt.error)
        raise ConsoleError(f"refused: {text}; {mend}" if mend else f"refused: {text}", Exit.REFUSED)
    return receipt
