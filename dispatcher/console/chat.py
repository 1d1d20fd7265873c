"""One chat: a request, its session shown live, questions answered by typing, Ctrl-C as the stop.

Brings together the stream (`following`, `speech`), the keyboard and the view; decides what each typed line
means for the session. Called by `dispatcher.cli`.
"""

import argparse
import asyncio
import signal

import grpc.aio
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.account import Account
from dispatcher.console.answers import UnfitError, value_json
from dispatcher.console.arguments import duration
from dispatcher.console.conclusion import conclude, refusal_text
from dispatcher.console.connection import Connection, unanswered
from dispatcher.console.escaping import safe_line
from dispatcher.console.following import EventStream, follow, read_batch
from dispatcher.console.keyboard import Keyboard, standard_input
from dispatcher.console.outcome import ConsoleError, Exit
from dispatcher.console.speech import ASK_ID, Speech
from dispatcher.console.view import View
from dispatcher.console.whole import shown


async def run(arguments: argparse.Namespace, connection: Connection) -> Exit:
    """The command `chat`."""
    left_s = arguments.stop_when_left
    ask = chat_pb2.Ask(
        agent=arguments.agent or "",
        agent_version=arguments.agent_version or "",
        labels=arguments.label,
        commander_labels=arguments.commander_label,
        messages=[
            agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(text=arguments.text)])
        ],
        metadata=arguments.metadata,
        user_id=arguments.user or "",
        include_thoughts=arguments.thoughts,
        on_detach=None if left_s is None else chat_pb2.OnDetach(stop_after=duration(left_s)),
    )
    return await shown(arguments, lambda view: chat(connection, ask, view, standard_input()))


async def chat(connection: Connection, ask: chat_pb2.Ask, view: View, keyboard: Keyboard) -> Exit:
    """Runs one session to its ending. Raises ConsoleError where there is none to tell of."""
    return await _Chat(connection, ask, view, keyboard).run()


class _Chat:
    def __init__(self, connection: Connection, ask: chat_pb2.Ask, view: View, keyboard: Keyboard) -> None:
        self._connection = connection
        self._thoughts = ask.include_thoughts
        self._view = view
        self._keyboard = keyboard
        self._account = Account()
        self._speech = Speech(connection, ask, self._receipt, view.notice)
        self._questions: dict[str, agent_pb2.Question] = {}  # open and not answered here, oldest first
        self._asked_by: dict[str, int] = {}  # the attempt that has asked, by the question's id
        self._answered: dict[str, agent_pb2.Question] = {}  # by the request id of the answer under way
        self._question_open = asyncio.Event()
        self._shown = ""  # the question that was printed last
        self._interrupts = 0
        self._leaving = False
        self._whole_task: asyncio.Task[object] | None = None

    async def run(self) -> Exit:
        self._whole_task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._speech.run())]
                await self._first_words()
                beside.append(tasks.create_task(self._listen_to_user()))
                await self._follow()
                for task in beside:
                    task.cancel()
            await self._speech.finish()
            self._view.close()
            for text in self._speech.unsaid():
                self._view.notice(f"the session ended before this was confirmed: {text}")
            return conclude(self._account, self._speech.session_id, self._view)
        except asyncio.CancelledError:
            if not self._leaving:
                raise
            return self._leave()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self._view.close()

    # The stream.

    async def _first_words(self) -> None:
        """Hears whether the session was accepted."""
        try:
            async with asyncio.timeout(self._connection.timeout_s):
                while not self._speech.session_id:
                    batch = await read_batch(self._speech.stream)
                    if batch is None:
                        raise ConsoleError(
                            "the dispatcher closed the stream without an answer; see its log", Exit.FAILED
                        )
                    self._take(batch)
        except grpc.aio.AioRpcError as error:
            raise self._connection.trouble(error) from None
        except TimeoutError:
            raise unanswered(self._connection.endpoint) from None

    async def _follow(self) -> None:
        if not self._account.over:
            await follow(
                self._connection,
                self._speech.stream,
                self._subscribe,
                self._account,
                self._take,
                self._view.notice,
                self._speech.session_id,
                heard=True,
            )

    def _subscribe(self, cursor: chat_pb2.Cursor | None) -> EventStream:
        self._speech.lost()
        request = chat_pb2.SubscribeRequest(
            session_id=self._speech.session_id, cursor=cursor, include_thoughts=self._thoughts
        )
        return self._connection.chat.Subscribe(request, metadata=self._connection.metadata)

    def _take(self, batch: chat_pb2.SessionEvents) -> bool:
        for receipt in batch.receipts:
            self._receipt(receipt)
        for event in batch.events:
            self._speech.session_id = self._speech.session_id or event.session_id
            if self._account.take(event):
                self._view.show(event)
                self._note(event)
        self._update_prompt()
        self._view.flush()
        return self._account.over

    def _receipt(self, receipt: chat_pb2.Receipt) -> None:
        message = self._speech.confirmed(receipt.request_id)
        question = self._answered.pop(receipt.request_id, None)
        if receipt.HasField("error"):
            self._refused(receipt, question, message)
        elif receipt.request_id == ASK_ID:
            self._speech.session_id = receipt.session_id

    def _refused(self, receipt: chat_pb2.Receipt, question: agent_pb2.Question | None, message: str) -> None:
        if receipt.request_id == ASK_ID and not self._speech.session_id:
            raise ConsoleError(f"refused: {refusal_text(receipt.error)}", Exit.REFUSED)
        lost = f"; not told: {message}" if message else ""
        self._view.notice(f"refused: {refusal_text(receipt.error)}{lost}")
        if question is not None and not self._account.over:
            self._questions[question.question_id] = question
            self._update_prompt()

    def _note(self, event: chat_pb2.SessionEvent) -> None:
        """Keeps the list of open questions."""
        kind = event.WhichOneof("event")
        if kind == "question":
            self._questions[event.question.question_id] = event.question
            self._asked_by[event.question.question_id] = event.attempt
            self._shown = event.question.question_id
        elif kind == "answer":
            self._questions.pop(event.answer.question_id, None)
        elif kind in ("reset", "gap", "ended"):
            self._questions.clear()
            self._answered.clear()

    # The user.

    async def _listen_to_user(self) -> None:
        while True:
            # A terminal's lines come at any time; any other input is only read when there is a question.
            if not self._keyboard.terminal or self._keyboard.ended:
                await self._question_open.wait()
            line = await self._keyboard.line()
            if not self._keyboard.terminal:
                await self._question_open.wait()  # the one it was read for may have expired meanwhile
            elif line is None:
                self._view.disturb()  # a terminal does not end the line at Ctrl-D
            else:
                self._view.echoed()
            if line is None:
                self._decline()
            elif self._questions:
                self._answer(line)
            elif line.strip():
                self._say(line)
            self._update_prompt()
            self._view.flush()

    def _answer(self, line: str) -> None:
        question = next(iter(self._questions.values()))
        try:
            value = value_json(question, line)
        except UnfitError as unfit:
            self._view.notice(str(unfit))
            return
        answer = chat_pb2.AnswerQuestion(
            question_id=question.question_id, value_json=value, attempt=self._asked_by[question.question_id]
        )
        self._answered[self._speech.answer(answer)] = self._questions.pop(question.question_id)

    def _decline(self) -> None:
        for question in list(self._questions.values()):
            if not self._keyboard.terminal:
                text = safe_line(question.text)
                self._view.notice(f"standard input has no answer: the question is declined: {text}")
            declined = chat_pb2.AnswerQuestion(
                question_id=question.question_id, decline=True, attempt=self._asked_by[question.question_id]
            )
            self._speech.answer(declined)
        self._questions.clear()

    def _say(self, line: str) -> None:
        if not self._speech.message(line):
            self._view.notice("too much waits to be sent: this line is not")

    def _update_prompt(self) -> None:
        """Lets the oldest open question be the one that is typed at."""
        current = next(iter(self._questions.values()), None)
        if current is None:
            self._question_open.clear()
            self._view.prompt(None, again=False)
            return
        self._question_open.set()
        if self._keyboard.terminal:
            self._view.prompt(current, again=self._shown != current.question_id)
            self._shown = current.question_id

    def _interrupted(self) -> None:
        self._interrupts += 1
        self._view.disturb()
        if self._interrupts == 1 and not self._account.over:
            self._view.notice("stopping; Ctrl-C again leaves at once")
            self._speech.stop("UserCancel")
            asyncio.get_running_loop().call_later(self._connection.timeout_s, self._remind)
        elif self._whole_task is not None:
            self._leaving = True
            self._whole_task.cancel()

    def _remind(self) -> None:
        if not self._account.over:
            waited_s = self._connection.timeout_s
            self._view.notice(f"no ending within {waited_s:g} s after the stop; Ctrl-C again leaves at once")

    def _leave(self) -> Exit:
        if self._whole_task is not None:
            self._whole_task.uncancel()
        self._view.close()
        session = self._speech.session_id
        if self._account.over:
            return conclude(self._account, session, self._view)
        if session:
            self._view.notice(
                f"left; session {session} may still run: `dispatcher watch {session}` shows it, "
                f"`dispatcher stop {session}` stops it"
            )
        return Exit.LEFT
