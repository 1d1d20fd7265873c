"""What applications ask of sessions: judged, and then submitted, in one place whichever way it came.

Each request is judged down to its fields before the core hears of it; what is wrong names the field, what was wrong
with it and what would be right.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final
from zlib import crc32

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher import answers
from dispatcher.core.events import (
    Accepted,
    AnswerGiven,
    Declined,
    Event,
    JudgeText,
    MessageGiven,
    SessionRequested,
    Stopped,
    StopRequested,
)
from dispatcher.core.policy import Budgets, Guard, PolicyLimits
from dispatcher.core.rules import NOTHING, Judged, RuleBook
from dispatcher.core.session import Session
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.readable import readable
from dispatcher.rpc import codec
from dispatcher.rpc.methods import REASON_CHARS_MAX
from dispatcher.rpc.policy_services import PolicyServices
from dispatcher.their_marks import Piece, joined, with_their_marks

LABELS_MAX: Final = 64
LABEL_CHARS_MAX: Final = 256


class WrongError(Exception):
    """A request that is not accepted: which field, what was wrong, what would be right."""

    def __init__(self, code: str, message: str, declined: Declined | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.declined = declined

    def signal(self) -> agent_pb2.ErrorSignal:
        signal = agent_pb2.ErrorSignal(
            code=self.code,
            origin=agent_pb2.ERROR_ORIGIN_CLIENT,
            scope=agent_pb2.ERROR_SCOPE_SESSION,
            message=codec.shortened(str(self)),
        )
        refusal = self.declined.refusal if self.declined else None
        if refusal is not None:
            signal.origin = agent_pb2.ERROR_ORIGIN_DISPATCHER
            signal.retryable = refusal.traits.retryable
            assert self.declined is not None
            retry_after_s = self.declined.retry_after_s or refusal.traits.retry_after_s
            if retry_after_s is not None:
                signal.retry_after_ms = max(1, round(retry_after_s * 1000))
        return signal


class Requests:
    """All methods raise WrongError for what is not accepted. `services` judge what users say where the policy file
    wants that, `mint` makes ids; `request_bytes_max`: the largest Ask and the largest message. They ask who the caller
    is, so they are called in the task that serves it.

    What was submitted is decided when they return, and kept when `hub.kept` says so: only then may anybody be told.
    """

    def __init__(
        self, hub: Hub, services: PolicyServices, mint: Callable[[str], str], request_bytes_max: int
    ) -> None:
        self._hub = hub
        self._services = services
        self._mint = mint
        self._request_bytes_max = request_bytes_max
        # Sessions keep the rules that they began with, so once is for ever.
        self._book: RuleBook | None = None
        self._are_judged = False

    @property
    def are_judged(self) -> bool:
        """Services judge what users say, or did: a request may have to wait for them."""
        book = self._hub.router.limits.policy.book
        if book is not self._book:
            self._book = book
            judges = (book.of_others, *book.of_agents.values())
            self._are_judged |= any(each.get("user", NOTHING).services for each in judges)
        return self._are_judged

    def require_visible(self, session_id: str) -> None:
        """Raises WrongError where there is no such session, and in the same words where it is not the caller's to see:
        nobody learns whose ids exist. An edge asks this before it shows a session."""
        session = self._hub.router.sessions.get(session_id)
        if session is None or not caller.get().may_see(session.application, session.user_id):
            raise WrongError(
                "unknown_session", f"session_id: there is no session {session_id!r}, or it is no longer kept"
            )

    async def ask(self, ask: chat_pb2.Ask, *, held_by_questions: bool = False) -> Accepted:
        """Opens a session, or joins the one that was asked for under the same key. `held_by_questions`: it does not
        count as left while a question of its is open."""
        if caller.get().role == "commander":
            raise WrongError("permission_denied", "a session needs a token of the role application or admin")
        self._require_size(ask.ByteSize())
        event = requested(ask, self._mint("s"), held_by_questions=held_by_questions)
        while True:
            judged_for = self._for_whom(ask)
            reviewed = await self._reviewed(*self._with_marks(event, judged_for), judged_for)
            if self._for_whom(ask) == judged_for:
                break
            # While services judged, the rules became others, or the only agent.
        reply = self._submit(reviewed)
        assert isinstance(reply, Accepted)
        return reply

    def _for_whom(self, ask: chat_pb2.Ask) -> tuple[str, PolicyLimits]:
        """The agent that a request is for, and what it is judged by."""
        agents = self._hub.router.fleet.agents()
        return ask.agent or (agents[0] if len(agents) == 1 else ""), self._hub.router.limits.policy

    def _with_marks(
        self, event: SessionRequested, judged_for: tuple[str, PolicyLimits]
    ) -> tuple[SessionRequested, chat_pb2.Ask]:
        """What the user says goes on with the marks that rules want in it; all of it as it was is for the core to
        judge. With it the request that was marked."""
        agent, policy = judged_for
        if "user" not in policy.book.judges(agent) or event.request is None:
            return event, chat_pb2.Ask()
        guard, said = Guard(policy, None, agent), []
        own = codec.parse(chat_pb2.Ask, event.request)
        for part in _said_by_user(own):
            if part.WhichOneof("part") == "text":
                said.append(part.text)
                part.text = guard.rewrite(part.text, "", "user", is_json=False)[0]
            else:
                said.append(readable(part.json))
                part.json = guard.rewrite(part.json, "", "user", is_json=True)[0]
        # A mark may be longer than what it stands for.
        self._require_size(own.ByteSize())
        return replace(event, request=own.SerializeToString(), said=tuple(said)), own

    async def _reviewed(
        self, event: SessionRequested, own: chat_pb2.Ask, judged_for: tuple[str, PolicyLimits]
    ) -> SessionRequested:
        """With what services say of it, and their marks."""
        agent, policy = judged_for
        judges = policy.book.judges(agent).get("user")
        parts = list(_said_by_user(own)) if judges is not None and judges.services else []
        guard = Guard(policy, None, agent)
        if judges is None or not parts or any(guard.would_stop(text, "", "user") for text in event.said):
            return event
        pieces = [Piece(part.text or part.json, is_json=not part.text) for part in parts]
        asked = JudgeText(event.session_id, 0, "", "user", "", joined(pieces), judges.services)
        asked = asked._replace(session_agent=agent, user_id=event.user_id, labels=event.labels)
        judged, marked = with_their_marks(await self._services.ask(asked), pieces)
        if marked is not None:
            for part, text in zip(parts, marked, strict=True):
                if part.WhichOneof("part") == "text":
                    part.text = text
                else:
                    part.json = text
            self._require_size(own.ByteSize())
            event = replace(event, request=own.SerializeToString())
        return replace(event, judged=judged)

    async def _judged(
        self, session: Session | None, said: str, marked: str | None, *, is_json: bool
    ) -> tuple[tuple[Judged, ...], str | None]:
        """What services say of what the user adds to a session, and what goes on in its place where they want marks in
        it; nothing where nobody is to be asked."""
        reviews = session.reviews if session is not None else None
        services = reviews.services("user") if reviews is not None else ()
        if session is None or session.guard is None or not services or not marked:
            return (), None
        if session.guard.would_stop(said, "", "user"):
            return (), None
        asked = JudgeText(session.session_id, session.attempt, "", "user", "", marked, services)
        asked = asked._replace(session_agent=session.agent, user_id=session.user_id, labels=session.labels)
        judged, instead = with_their_marks(await self._services.ask(asked), [Piece(marked, is_json=is_json)])
        return judged, None if instead is None else instead[0]

    def _require_size(self, size: int) -> None:
        if size > self._request_bytes_max:
            most = self._request_bytes_max
            told = f"the request has {size} bytes as the contract writes it; request_bytes_max is {most}"
            raise WrongError("too_large", told)

    async def answer(self, session_id: str, answer: chat_pb2.AnswerQuestion) -> None:
        self.require_visible(session_id)
        self._require_size(answer.ByteSize())
        value_json: str | None = None
        if answer.WhichOneof("result") == "value_json":
            value_json = answer.value_json
            _require_json("answer.value_json", value_json)
            self._require_fitting(session_id, answer.question_id, value_json)
        elif not answer.decline:
            raise WrongError("invalid_request", "answer: neither value_json nor decline is set; set one")
        attempt = answer.attempt if answer.HasField("attempt") else None
        actor, said = caller.get().actor, readable(value_json or "")
        # Of one that was answered before, too: a repeat has to come out as it did then.
        session = self._hub.router.asking(session_id, answer.question_id)
        session = session or self._hub.router.sessions.get(session_id)
        marked = self._hub.router.marked(session, value_json, is_json=True)
        judged, instead = await self._judged(session, said, marked, is_json=True)
        if instead is not None:
            self._require_fitting(session_id, answer.question_id, instead)
        given = AnswerGiven(session_id, answer.question_id, value_json, attempt, actor, said, judged, instead)
        self._submit(given)

    def decline(self, session_id: str, question_id: str, attempt: int | None) -> None:
        """Nobody will answer it."""
        self.require_visible(session_id)
        self._submit(AnswerGiven(session_id, question_id, None, attempt, caller.get().actor))

    async def message(self, session_id: str, message: chat_pb2.AddMessage) -> str:
        """The message's id."""
        self.require_visible(session_id)
        self._require_size(message.ByteSize())
        if not message.text:
            raise WrongError("invalid_request", "message.text: is empty")
        if len(message.idempotency_key) > LABEL_CHARS_MAX:
            raise WrongError(
                "invalid_request", f"message.idempotency_key: at most {LABEL_CHARS_MAX} characters are right"
            )
        key = message.idempotency_key
        message_id = _id_of(session_id, key) if key else self._mint("m")
        session = self._hub.router.sessions.get(session_id)
        marked = self._hub.router.marked(session, message.text)
        judged, instead = await self._judged(session, message.text, marked, is_json=False)
        self._submit(MessageGiven(session_id, message_id, message.text, judged, instead))
        return message_id

    def stop(self, session_id: str, stop: chat_pb2.StopAsked) -> Stopped:
        """Stops it, as its user; one that has ended stays as it ended."""
        self.require_visible(session_id)
        reason = stop.reason or "UserCancel"
        if len(reason) > REASON_CHARS_MAX:
            raise WrongError(
                "invalid_request", f"stop.reason: at most {REASON_CHARS_MAX} characters are right"
            )
        stop_id = self._mint("stop")
        reply = self._submit(StopRequested(session_id, stop_id, "user_cancel", reason, caller.get().actor))
        assert isinstance(reply, Stopped)
        return reply

    def _submit(self, event: Event) -> Any:
        reply = self._hub.submit(event)
        if isinstance(reply, Declined):
            raise WrongError(reply.code, reply.message, reply)
        return reply

    def _require_fitting(self, session_id: str, question_id: str, value_json: str) -> None:
        """Raises WrongError for an answer that its question does not allow; the question stays open."""
        session = self._hub.router.asking(session_id, question_id)
        question = session.questions.get(question_id) if session else None
        if question is not None:
            misfit = answers.misfit(codec.question(question.body), value_json)
            if misfit:
                raise WrongError("invalid_request", f"answer.value_json: {misfit}")


def _said_by_user(ask: chat_pb2.Ask) -> Iterator[agent_pb2.ContentPart]:
    """The parts that have text."""
    for message in ask.messages:
        for part in message.parts if message.role == agent_pb2.ROLE_USER else ():
            if part.WhichOneof("part") in ("text", "json"):
                yield part


def requested(ask: chat_pb2.Ask, session_id: str, *, held_by_questions: bool = False) -> SessionRequested:
    """An Ask in the core's words. Raises WrongError, which names the field."""
    ask = _own(ask, caller.get().user_id)
    if not ask.messages:
        raise WrongError("invalid_request", "ask.messages: is empty; at least one message is right")
    for number, message in enumerate(ask.messages):
        _require_message(f"ask.messages[{number}]", message)
    for name, labels in (("labels", ask.labels), ("commander_labels", ask.commander_labels)):
        if len(labels) > LABELS_MAX:
            raise WrongError(
                "invalid_request", f"ask.{name}: has {len(labels)}; at most {LABELS_MAX} are right"
            )
        for key, value in labels.items():
            if not key or len(key) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
                raise WrongError(
                    "invalid_request",
                    f"ask.{name}[{key[:32]!r}]: keys and values have up to {LABEL_CHARS_MAX}",
                )
    for name in ("agent", "agent_version", "user_id", "affinity_key", "idempotency_key"):
        if len(getattr(ask, name)) > LABEL_CHARS_MAX:
            raise WrongError("invalid_request", f"ask.{name}: at most {LABEL_CHARS_MAX} characters are right")
    unwatched = ask.on_detach.HasField("stop_after")
    if unwatched and codec.seconds(ask.on_detach.stop_after) < 0:
        raise WrongError("invalid_request", "ask.on_detach.stop_after: is below zero; 0 s or more is right")
    return SessionRequested(
        session_id=session_id,
        agent=ask.agent,
        request=ask.SerializeToString(),
        agent_version=ask.agent_version,
        user_id=ask.user_id,
        labels=dict(ask.labels),
        commander_labels=dict(ask.commander_labels),
        affinity_key=ask.affinity_key,
        idempotency_key=ask.idempotency_key,
        budgets=_budgets(ask.budgets) if ask.HasField("budgets") else None,
        stop_when_unwatched_s=codec.seconds(ask.on_detach.stop_after) if unwatched else None,
        held_by_questions=held_by_questions,
        application=caller.get().actor,
        request_crc32=_asked_crc32(ask),
    )


def _id_of(session_id: str, key: str) -> str:
    """Of a message: the same for the same key, in every life of a dispatcher."""
    return f"m-{sha256(f'{session_id} {key}'.encode()).hexdigest()[:24]}"


def _own(ask: chat_pb2.Ask, user_id: str) -> chat_pb2.Ask:
    """What a caller that is one user asks is that user's, whether it says so or not."""
    if not user_id or ask.user_id == user_id:
        return ask
    if ask.user_id:
        told = (
            f"ask.user_id: is {ask.user_id[:LABEL_CHARS_MAX]!r}, and this token speaks for {user_id!r} alone"
        )
        raise WrongError("invalid_request", f"{told}: leave it out")
    own = chat_pb2.Ask(user_id=user_id)
    own.MergeFrom(ask)
    return own


def _asked_crc32(ask: chat_pb2.Ask) -> int:
    """Of what is asked under a key. How it is watched and traced may be another when it is asked again."""
    if not ask.idempotency_key:
        return 0
    asked = chat_pb2.Ask()
    asked.CopyFrom(ask)
    for apart in ("include_thoughts", "on_detach", "trace_context"):
        asked.ClearField(apart)
    return crc32(asked.SerializeToString(deterministic=True))


def _require_message(where: str, message: agent_pb2.Message) -> None:
    if not message.parts:
        raise WrongError("invalid_request", f"{where}.parts: is empty; at least one part is right")
    if message.role not in agent_pb2.Role.values() or message.role == agent_pb2.ROLE_UNSPECIFIED:
        raise WrongError("invalid_request", f"{where}.role: is not set or unknown")
    for number, part in enumerate(message.parts):
        kind = part.WhichOneof("part")
        if kind is None:
            raise WrongError(
                "invalid_request",
                f"{where}.parts[{number}]: is not set, or unknown here; one of text, blob, json is right",
            )
        if kind == "json":
            _require_json(f"{where}.parts[{number}].json", part.json)


def _require_json(where: str, text: str) -> None:
    """Raises WrongError. Stricter than `json`: NaN and the infinities are no JSON."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise WrongError(
            "invalid_request", f"{where}: is no JSON: {error.msg} at character {error.pos + 1}"
        ) from None
    except _NoConstantError as error:
        raise WrongError("invalid_request", f"{where}: is no JSON: {error}") from None
    except ValueError:  # the only one left: an integer of thousands of digits
        raise WrongError(
            "invalid_request", f"{where}: is no JSON that readers agree on: a number has too many digits"
        ) from None
    except RecursionError:
        raise WrongError("invalid_request", f"{where}: is nested too deeply") from None


class _NoConstantError(ValueError):
    pass


def _no_constant(name: str) -> object:
    raise _NoConstantError(f"{name} is no value of it")


def _budgets(wire: agent_pb2.Budgets) -> Budgets:
    for name in ("total_time", "first_token_time"):
        if wire.HasField(name) and codec.seconds(getattr(wire, name)) <= 0:
            raise WrongError("invalid_request", f"ask.budgets.{name}: is not above zero")
    return Budgets(
        content_chars=wire.content_chars if wire.HasField("content_chars") else None,
        thought_chars=wire.thought_chars if wire.HasField("thought_chars") else None,
        tool_calls=wire.tool_calls if wire.HasField("tool_calls") else None,
        output_tokens=wire.output_tokens if wire.HasField("output_tokens") else None,
        total_time_s=codec.seconds(wire.total_time) if wire.HasField("total_time") else None,
        first_token_s=codec.seconds(wire.first_token_time) if wire.HasField("first_token_time") else None,
    )
