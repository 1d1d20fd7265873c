"""OpenAI's Chat Completions and Models: whoever has one of their clients changes its base URL, and asks agents."""

from typing import Any

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.edge.bodies import parsed
from dispatcher.edge.foreign import ASKING, KEY, Foreign, ForeignStream, may_think
from dispatcher.edge.native import json_bytes
from dispatcher.edge.openai_bodies import ChatBody
from dispatcher.edge.openai_chunks import ChatStream, Completion, Wishes, finish_reason
from dispatcher.edge.openai_errors import Trouble, of_ending
from dispatcher.edge.operations import DATA, TEXT, Answer, Parameter, json_answer, object_of, operation
from dispatcher.edge.reading import json_body
from dispatcher.edge.schemas import ref
from dispatcher.hub import Hub
from dispatcher.record import plain
from dispatcher.rpc.views import ModelsTold

# Between an agent's name and its version.
_VERSION_MARK = "@"
_MODEL = object_of(
    id=TEXT,
    object={"const": "model"},
    created={"type": "integer"},
    owned_by=TEXT,
    description=TEXT,
    models={"type": "array", "items": ref("ModelOffer")},
    models_left_out={"type": "integer"},
)
# As OpenAI's own description has it, which clients bring along.
_COMPLETION = object_of(
    id=TEXT,
    object={"const": "chat.completion"},
    created={"type": "integer"},
    model=TEXT,
    choices={"type": "array", "items": {"type": "object"}},
)


def versions(hub: Hub) -> dict[str, dict[str, str]]:
    """The agents that can be asked now: by name and version, what they say of themselves."""
    served: dict[str, dict[str, str]] = {}
    for commander in hub.router.fleet.commanders.values():
        for offer in commander.hello.agents:
            served.setdefault(offer.name, {}).setdefault(offer.version, offer.description)
    return served


def address(hub: Hub, model: str, ask: chat_pb2.Ask) -> None:
    """Whom to ask: `name`, or `name@version` where nobody is called so."""
    name, mark, version = model.rpartition(_VERSION_MARK)
    if mark and name and model not in versions(hub):
        ask.agent, ask.agent_version = name, version
    else:
        ask.agent = model


def stamped(session_id: str) -> dict[str, str]:
    """Headers by which an application may go on with our own API."""
    return {
        "location": f"/v1/sessions/{session_id}",
        "session-id": session_id,
        "x-request-id": session_id,
    }


def told(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, 200, {"cache-control": "no-store", **(headers or {})}, "application/json")


class OpenAi:
    """The endpoints."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign
        self._hub = foreign.hub

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
        ]

    @operation(
        body=ChatBody,
        parameters=(KEY,),
        answers={
            200: Answer(
                "A `chat.completion`; with `stream`, `chat.completion.chunk`s and `[DONE]`.",
                {"application/json": _COMPLETION, "text/event-stream": DATA},
            )
        },
        problems=ASKING,
        tag="openai",
        errors="OpenAiError",
        ends=True,
    )
    async def complete(self, request: Request) -> Response:
        """Opens a session; its answer in chunks, or whole. The session is stopped when the client goes."""
        foreign = self._foreign
        body = parsed(ChatBody, await json_body(request, foreign.limits.body))
        ask = body.ask()
        address(self._hub, body.model, ask)
        ask.idempotency_key = request.headers.get("idempotency-key", "")
        session_id, presence = await foreign.ask(ask)
        wishes = Wishes(body.model, body.wants_usage, body.include_events)
        thoughts = may_think(body.include_thoughts)
        declines = body.on_question == "decline"
        epoch = self._hub.journal.epoch
        if body.stream:
            return ForeignStream(
                foreign,
                ChatStream(session_id, epoch, wishes),
                session_id,
                thoughts=thoughts,
                declines=declines,
                presence=presence,
                headers=stamped(session_id),
            )
        whole = Completion(session_id, epoch, wishes, thoughts=thoughts)
        try:
            if not await foreign.gathered(request, session_id, whole, declines=declines):
                return Response(status_code=499)
        finally:
            presence.end()
        assert whole.ended is not None
        if finish_reason(whole.ended) is None:
            return of_ending(whole.ended).response()
        return told(whole.body(), stamped(session_id))

    @operation(
        answers={
            200: json_answer(
                "The agents.", object_of(object={"const": "list"}, data={"type": "array", "items": _MODEL})
            )
        },
        tag="openai",
        errors="OpenAiError",
    )
    async def models(self, _: Request) -> Response:
        """The agents; one that is there in several versions also by each."""
        served = versions(self._hub)
        told_models = ModelsTold(self._hub.router.fleet.commanders.values())
        records = []
        for name in sorted(served):
            records.append(_record(name, "", served[name], told_models))
            if len(served[name]) > 1:
                records += [
                    _record(name, version, served[name], told_models)
                    for version in sorted(served[name])
                    if version
                ]
        return told(json_bytes({"object": "list", "data": records}))

    @operation(
        parameters=(Parameter("model", "path", "An agent's name, or `name@version`."),),
        answers={200: json_answer("The agent.", _MODEL)},
        tag="openai",
        errors="OpenAiError",
    )
    async def model(self, request: Request) -> Response:
        """One agent, as a model."""
        model = request.path_params["model"]
        served = versions(self._hub)
        told_models = ModelsTold(self._hub.router.fleet.commanders.values())
        name, _, version = model.rpartition(_VERSION_MARK)
        if model in served:
            return told(json_bytes(_record(model, "", served[model], told_models)))
        if version and version in served.get(name, {}):
            return told(json_bytes(_record(name, version, served[name], told_models)))
        there = f"there are: {', '.join(sorted(served))}" if served else "no commander serves any agent now"
        missing = f"model: no commander serves {model[:256]!r}; {there}"
        return Trouble(404, missing, "model_not_found", "model").response()


def _record(name: str, version: str, served: dict[str, str], told_models: ModelsTold) -> dict[str, Any]:
    """When an agent was made nobody here knows. `models` are the language models it may use: clients of OpenAI's pass
    over what they do not know."""
    description = served[version] if version else next(iter(served.values()))
    models, left_out = told_models.of(*((name, each) for each in ([version] if version else served)))
    return {
        "id": f"{name}{_VERSION_MARK}{version}" if version else name,
        "object": "model",
        "created": 0,
        "owned_by": "chatstream",
        "description": description,
        "models": [plain(model) for model in models],
        "models_left_out": left_out,
    }
