"""A service that judges, in a thread of the test's: what it says depends on what it reads, and what it was asked is
kept."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from southwest.ai.agent.v1 import policy_pb2

from dispatcher.rpc.policy_services import SPANS_MAX

PATIENCE_S = 60.0


# Bytes that are no message.
NO_ANSWER = b"\xff\xff"
# None: those.
Said = policy_pb2.JudgeResponse | None


def verdict(request: policy_pb2.JudgeRequest) -> Said:
    """By words in the text."""
    text = request.text
    if "garbage" in text:
        return None
    if "secret" in text:
        return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_STOP, label="a secret word")
    if "forbidden" in text:
        return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_DENY, label="not for agents")
    if "nonsense" in text:
        return policy_pb2.JudgeResponse()
    if "confetti" in text:
        bits = [policy_pb2.TextSpan(begin=0, end=1)] * (SPANS_MAX + 1)
        return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_REDACT, spans=bits)
    if "gossip" in text:
        return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_OBSERVE, label="gossip")
    spans = [
        policy_pb2.TextSpan(begin=match.start(), end=match.end(), mark="[pin]")
        for match in re.finditer(r"\d{4}", text)
    ]
    if spans:
        return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_REDACT, label="pin", spans=spans)
    return policy_pb2.JudgeResponse(action=policy_pb2.JUDGE_ACTION_PASS)


@dataclass
class JudgeService:
    """Hangs at texts with "hang" until it is told to go on, or its caller has left."""

    judge: Callable[[policy_pb2.JudgeRequest], Said] = verdict
    asked: list[policy_pb2.JudgeRequest] = field(default_factory=list)
    metadata: list[Mapping[str, str | bytes]] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)
    address: str = ""
    _news: threading.Condition = field(default_factory=threading.Condition)

    def Judge(self, request: policy_pb2.JudgeRequest, context: Any) -> Said:  # noqa: N802 - its name on the wire
        with self._news:
            self.asked.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self._news.notify_all()
        if "hang" in request.text:
            context.add_callback(self.goes_on.set)
            assert self.goes_on.wait(PATIENCE_S)
        return self.judge(request)

    def wait_asked(self, right: Callable[[policy_pb2.JudgeRequest], bool]) -> policy_pb2.JudgeRequest:
        """The first question that is right, as soon as it is there."""
        with self._news:
            assert self._news.wait_for(lambda: any(map(right, self.asked)), PATIENCE_S), self.asked
            return next(filter(right, self.asked))

    def of(self, session_id: str) -> list[policy_pb2.JudgeRequest]:
        with self._news:
            return [each for each in self.asked if each.session_id == session_id]


@contextlib.contextmanager
def judging(
    service: JudgeService | None = None, credentials: grpc.ServerCredentials | None = None, address: str = ""
) -> Iterator[JudgeService]:
    """A service at a port of its own, or where one was before."""
    service = service or JudgeService()
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    method: Any = grpc.unary_unary_rpc_method_handler(
        service.Judge,
        policy_pb2.JudgeRequest.FromString,
        lambda said: NO_ANSWER if said is None else said.SerializeToString(),
    )
    policy = grpc.method_handlers_generic_handler("southwest.ai.agent.v1.ContentPolicy", {"Judge": method})
    server.add_generic_rpc_handlers((policy,))
    where = address or "127.0.0.1:0"
    port = (
        server.add_insecure_port(where)
        if credentials is None
        else server.add_secure_port(where.replace("127.0.0.1", "localhost"), credentials)
    )
    service.address = address or f"{'127.0.0.1' if credentials is None else 'localhost'}:{port}"
    server.start()
    try:
        yield service
    finally:
        service.goes_on.set()
        server.stop(None).wait()


def table(name: str, address: str, **keys: Any) -> str:
    """`[service.NAME]` of a policy file."""
    lines = [f"[service.{name}]", f'address = "{address}"']
    for key, value in ({"tls": False} | keys).items():
        told = str(value).lower() if isinstance(value, bool) else repr(value)
        lines.append(f"{key} = {told}")
    return "\n".join(lines) + "\n"


def put(path: Path, text: str) -> Path:
    """Replaces the file at once."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    return new.rename(path)
