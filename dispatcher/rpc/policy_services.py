"""Asking the services of the policy file what they say of a text.

Every question ends in a verdict: what a service answers, or that it has failed, and why. It is asked once, since a late
answer is none; what fails again and again is left alone for a while. What holds then is for the core to decide.
Channels are kept by what a table says, so a file that is read again opens no new ones to services that it leaves alone.

Knows no session and no rule. `serve.py` makes one; the hub asks about what agents and tools say, `requests.py` about
what users say.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from southwest.ai.agent.v1 import policy_pb2

from dispatcher.core.events import Count, JudgeText, Measure, TextJudged
from dispatcher.core.rules import Judged, Kind, Service, Span
from dispatcher.metrics import Metrics
from dispatcher.policy_file import ServiceTable
from dispatcher.tables import SecretError, secrets_of
from dispatcher.tools.breaker import Breaker

log = logging.getLogger(__name__)

# Channels that are kept: those of files before too, whose sessions still run.
CLIENTS_MAX: Final = 64
# Of an answer: spans, and what they say.
ANSWER_BYTES_MAX: Final = 1_048_576
SPANS_MAX: Final = 10_000
LABEL_CHARS_MAX: Final = 100
MARK_CHARS_MAX: Final = 200
MARK: Final = "[redacted]"
_KINDS: Final[dict[Kind, policy_pb2.TextKind.ValueType]] = {
    "content": policy_pb2.TEXT_KIND_CONTENT,
    "thought": policy_pb2.TEXT_KIND_THOUGHT,
    "tool_call": policy_pb2.TEXT_KIND_TOOL_CALL,
    "tool_result": policy_pb2.TEXT_KIND_TOOL_RESULT,
    "question": policy_pb2.TEXT_KIND_QUESTION,
    "user": policy_pb2.TEXT_KIND_USER,
}
# Called by its name: the library's stubs tell of an answer that can't be parsed in the log alone, and give None.
_JUDGE: Final = "/southwest.ai.agent.v1.ContentPolicy/Judge"
# What the library says itself; what a service says might quote the text.
_UNREACHED: Final = "failed to connect"


class _SenselessError(Exception):
    """An answer that can't be followed. The message says which field, and what would be right."""


class _Client:
    """One service, for as long as any session's rules name it."""

    def __init__(self, name: str, table: ServiceTable, metrics: Metrics) -> None:
        self.table: Final = table
        self._name = name
        self._metrics = metrics
        self._breaker = Breaker(table.failures_max, table.open_s)
        self._places = asyncio.Semaphore(table.concurrency)
        self._channel: aio.Channel | None = None
        self.running = 0
        metrics.service_open(name, is_open=False)

    def __repr__(self) -> str:
        return f"<_Client {self._name} at {self.table.address}, {self.running} questions, {self._breaker!r}>"

    def is_of(self, name: str, table: ServiceTable) -> bool:
        return (self._name, self.table) == (name, table)

    async def judge(self, service: Service, request: policy_pb2.JudgeRequest) -> Judged:
        """Raises CancelledError alone."""
        began = time.monotonic()
        refuse_s = self._breaker.refuse_s(began)
        if refuse_s is not None:
            told = f"it has failed {self._breaker.failures} times in a row and is left alone for {refuse_s:.1f} s"
            judged = Judged(service, "failed", told)
        else:
            self.running += 1
            try:
                judged = await self._asked(service, request)
            except asyncio.CancelledError:
                self._breaker.let_go()
                raise
            finally:
                self.running -= 1
            self._metrics.measure(Measure("policy_question_s", time.monotonic() - began, (self._name,)))
            self._tell_breaker(works=judged.action != "failed")
        self._metrics.count(Count("policy_questions", (self._name, judged.action)))
        return judged

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _asked(self, service: Service, request: policy_pb2.JudgeRequest) -> Judged:
        deadline_s = self.table.deadline_s
        try:
            async with asyncio.timeout(deadline_s), self._places:
                ask: Any = self._opened().unary_unary(_JUDGE, policy_pb2.JudgeRequest.SerializeToString)
                answer: bytes = await ask(request, timeout=deadline_s, metadata=self._metadata())
            return _judged(service, policy_pb2.JudgeResponse.FromString(answer), len(request.text))
        except TimeoutError:
            return Judged(service, "failed", f"no answer within {deadline_s:g} s")
        except aio.AioRpcError as error:
            return Judged(service, "failed", self._why(error))
        except SecretError as error:
            log.error("%s", error)  # noqa: TRY400 - a mistake of the settings, not ours
            return Judged(service, "failed", "a secret that it needs is not there")
        except OSError as error:
            log.error("service.%s.tls_ca: can't be read: %s", self._name, error.strerror)  # noqa: TRY400 - as above
            return Judged(service, "failed", "the certificates that it is known by can't be read")
        except DecodeError:
            return Judged(service, "failed", "its answer makes no sense: it is no JudgeResponse")
        except _SenselessError as error:
            return Judged(service, "failed", f"its answer makes no sense: {error}")

    def _why(self, error: aio.AioRpcError) -> str:
        details = " ".join((error.details() or "").split())
        if error.code() is StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {self.table.deadline_s:g} s"
        if error.code() is StatusCode.UNAVAILABLE and details.startswith(_UNREACHED):
            log.debug("service %s: %s", self._name, details[:300])
            return "it can't be reached"
        return f"it answered {error.code().name}"

    def _tell_breaker(self, *, works: bool) -> None:
        if works:
            if self._breaker.worked():
                log.info("service %s answers again", self._name)
                self._metrics.service_open(self._name, is_open=False)
        elif self._breaker.failed(time.monotonic()):
            log.warning(
                "service %s at %s has failed %d times in a row: it is left alone for %g s, and what it would judge %s",
                self._name,
                self.table.address,
                self._breaker.failures,
                self.table.open_s,
                "goes on" if self.table.on_failure == "pass" else "is stopped",
            )
            self._metrics.service_open(self._name, is_open=True)

    def _opened(self) -> aio.Channel:
        if self._channel is None:
            options = [
                ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
                ("grpc.enable_retries", 0),
                # The file says it all: a proxy of the environment would read what people say.
                ("grpc.enable_http_proxy", 0),
                # Whoever comes back is found again at once.
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.min_reconnect_backoff_ms", 1_000),
                ("grpc.max_reconnect_backoff_ms", 2_000),
            ]
            if self.table.tls:
                ca = self.table.tls_ca
                credentials = grpc.ssl_channel_credentials(None if ca is None else ca.read_bytes())
                self._channel = aio.secure_channel(self.table.address, credentials, options)
            else:
                self._channel = aio.insecure_channel(self.table.address, options)
        return self._channel

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Read anew for each question. Raises SecretError."""
        secrets = secrets_of(self.table.headers, f"service.{self._name}.headers")
        return tuple((name.lower(), value) for name, value in secrets.items())


class PolicyServices:
    """All services that any session's rules name."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # The one that was asked last is the last. A service of an older file may have another table.
        self._clients: list[_Client] = []
        self._closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<PolicyServices {self._clients}>"

    async def judge(self, effect: JudgeText) -> TextJudged:
        """What each of them says, all asked at once. Raises CancelledError alone."""
        judged = await self.ask(effect)
        return TextJudged(effect.session_id, effect.attempt, effect.review_id, judged)

    async def ask(self, effect: JudgeText) -> tuple[Judged, ...]:
        """As `judge`. Where one says that it is over, nobody waits for the others."""
        asking = [
            self._client(service).judge(service, _request(service, effect)) for service in effect.services
        ]
        if len(asking) == 1:
            return (await asking[0],)
        tasks = [asyncio.ensure_future(each) for each in asking]
        try:
            for done in asyncio.as_completed(tasks):
                judged = await done
                if judged.action == "stop" or (judged.action == "failed" and not judged.service.fails_open):
                    return (judged,)
            return tuple(task.result() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def close(self) -> None:
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.close() for client in clients), *self._closing)

    def _client(self, service: Service) -> _Client:
        table = cast("ServiceTable", service.place)
        client = next((each for each in self._clients if each.is_of(service.name, table)), None)
        if client is not None:
            self._clients.remove(client)
        else:
            client = _Client(service.name, table, self._metrics)
            self._let_one_go()
        self._clients.append(client)
        return client

    def _let_one_go(self) -> None:
        """There are as many as may be: the one that nobody has asked for longest goes, unless it is being asked."""
        idle = next((each for each in self._clients if not each.running), None)
        if len(self._clients) >= CLIENTS_MAX and idle is not None:
            self._clients.remove(idle)
            task = asyncio.create_task(idle.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _request(service: Service, effect: JudgeText) -> policy_pb2.JudgeRequest:
    if effect.kind in ("tool_call", "tool_result"):
        effect = effect._replace(text=_unescaped(effect.text))
    # JSON may hold halves of characters that no protobuf can; each is one character either way.
    text, before = (each.encode(errors="replace").decode() for each in (effect.text, effect.before))
    return policy_pb2.JudgeRequest(
        policy=service.name,
        kind=_KINDS[effect.kind],
        text=text,
        before=before[max(0, len(before) - service.before_chars) :],
        is_final=effect.is_final,
        session_id=effect.session_id,
        attempt=effect.attempt,
        agent=effect.session_agent,
        agent_path=effect.agent,
        user_id=effect.user_id,
        labels=effect.labels,
        tool_name=effect.tool_name,
    )


def _unescaped(text: str) -> str:
    """JSON with its characters as they are read; what is none stays as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _judged(service: Service, answer: policy_pb2.JudgeResponse, text_chars: int) -> Judged:
    """Raises _SenselessError."""
    label = "".join(each if each.isprintable() else " " for each in answer.label[:LABEL_CHARS_MAX])
    match answer.action:
        case policy_pb2.JUDGE_ACTION_PASS:
            return Judged(service, "pass")
        case policy_pb2.JUDGE_ACTION_OBSERVE:
            return Judged(service, "observe", label)
        case policy_pb2.JUDGE_ACTION_DENY:
            return Judged(service, "deny", label)
        case policy_pb2.JUDGE_ACTION_STOP:
            return Judged(service, "stop", label)
        case policy_pb2.JUDGE_ACTION_REDACT:
            return Judged(service, "redact", label, _spans(answer.spans, text_chars))
        case policy_pb2.JUDGE_ACTION_UNSPECIFIED:
            raise _SenselessError("action: is not set")
    raise _SenselessError(f"action: is {answer.action}, which this version does not know")


def _spans(spans: Sequence[policy_pb2.TextSpan], text_chars: int) -> tuple[Span, ...]:
    if not spans:
        raise _SenselessError("spans: is empty, and action says redact")
    if len(spans) > SPANS_MAX:
        raise _SenselessError(f"spans: has {len(spans)}; at most {SPANS_MAX} are right")
    told = []
    for number, span in enumerate(spans):
        if not span.begin < span.end <= text_chars:
            where = f"from {span.begin} to {span.end}"
            raise _SenselessError(f"spans[{number}]: is {where}, and the text has {text_chars} characters")
        if len(span.mark) > MARK_CHARS_MAX or not span.mark.isprintable():
            raise _SenselessError(
                f"spans[{number}].mark: at most {MARK_CHARS_MAX} that can be seen are right"
            )
        told.append(Span(span.begin, span.end, span.mark if span.mark.strip() else MARK))
    return tuple(told)
