"""What holds whichever provider a model is of: against a scripted server of its API. A test file makes a class of these
for each provider, with an `api` fixture."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from commander_here import serving
from model_scene import Scene
from model_server import (
    Call,
    Finish,
    ModelServer,
    Pause,
    Raw,
    Request,
    Reset,
    Status,
    Step,
    Thought,
    Wire,
    says,
)
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.agents.assistant import assistant
from commander.conversation import Blob, Message, ToolOffer

PNG = b"\x89PNG"
ADD = ToolOffer("add", "Adds", {"type": "object", "properties": {"a": {"type": "integer"}}})
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass(frozen=True)
class Failure:
    """What the provider answers, and what is told of it."""

    step: Step
    code: str
    upstream_status: int | None = None
    retry_after_s: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Api:
    """A provider's API: how its servers speak, and where its requests have what."""

    model: str
    wire: Callable[[], Wire]
    key: Callable[[Request], str | None]
    system: Callable[[dict[str, Any]], str]
    # Of the calls of a round, by their ids.
    returns: Callable[[dict[str, Any]], dict[str, str]]
    # Bytes of images, and addresses.
    images: Callable[[dict[str, Any]], list[bytes | str]]
    schema: Callable[[dict[str, Any]], object]
    tools: Callable[[dict[str, Any]], list[str]]
    # Whether it is told to call none.
    may_not_call: Callable[[dict[str, Any]], bool]
    tokens_max: Callable[[dict[str, Any]], int | None]
    failures: tuple[Failure, ...]
    at: str = ""
    # Whether the provider fetches what is at an address.
    takes_addresses: bool = True
    # What a stream may begin with before it says anything.
    begins: bytes = b": nothing yet\n\n"
    # What of a thought the provider wants to see again in the next round.
    thought: Callable[[dict[str, Any]], object] = lambda _: True

    def server(self, *scripts: list[Step]) -> ModelServer:
        return ModelServer(*scripts, wire=self.wire, at=self.at)

    def table(self, server: ModelServer, **more: object) -> dict[str, object]:
        return {"model": self.model, "base_url": server.base_url, "retry_first_s": 0.01, **more}

    @contextmanager
    def scene(self, *script: Step, **more: object) -> Iterator[tuple[Scene, ModelServer]]:
        with self.server(list(script)) as server:
            yield Scene({"fast": self.table(server, **more)}), server


class Cases:
    """Every one of these, for the `api` of a subclass."""

    def test_text_reasoning_and_usage_are_told_as_what_they_are(self, api: Api) -> None:
        script: list[Step] = [Thought("Let me "), Thought("see."), "Hello", ", ", "world"]
        with api.scene(*script, Finish(output_tokens=5, reasoning_tokens=2)) as (scene, server):
            heard = asyncio.run(scene.heard(system="Be brief."))
        assert (heard.thoughts, heard.text, heard.failure) == ("Let me see.", "Hello, world", None)
        (used,) = (each.usage for each in heard.used)
        assert (used.input_tokens, used.output_tokens, used.reasoning_tokens) == (7, 5, 2)
        assert api.system(server.requests[0].body) == "Be brief."

    def test_the_assistant_calls_tools_at_once_and_goes_on_with_what_they_return(self, api: Api) -> None:
        wanted = [Call("add", ['{"a"', ": 1}"], "c-1", 0), Call("find", ['{"q": "x"}'], "c-2", 1)]
        first: list[Step] = [
            Thought("Tools."),
            "Let me see. ",
            *wanted,
            Finish("tool_calls", reasoning_tokens=1),
        ]
        offers = [
            pb.ToolOffer(name=name, description=name, parameters_schema_json='{"type": "object"}')
            for name in ("add", "find")
        ]
        asked = pb.Message(
            role=pb.ROLE_USER,
            parts=[
                pb.ContentPart(text="What is this?"),
                pb.ContentPart(blob=pb.Blob(mime_type="image/png", data=PNG)),
            ],
        )
        with api.server(first, says("Found.")) as server, ScriptedDispatcher() as dispatcher:
            tables = {"fast": api.table(server, system="You are Ada.")}
            with serving(dispatcher.address, assistant, models=tables):
                start = pb.Start(tools=offers, messages=[asked])
                session = ScriptedSession(dispatcher.accept(), "s", start=start)
                calls = [session.next_of("tool_call") for _ in wanted]
                assert [each.tool_call.arguments_json for each in calls] == ['{"a": 1}', '{"q": "x"}']
                error = pb.ToolError(code=pb.TOOL_ERROR_CODE_TIMEOUT, message="took too long")
                session.answer_call(calls[1], '{"error": {}}', error)
                session.answer_call(calls[0], '{"sum": 3}')
                assert session.done().outcome == pb.OUTCOME_COMPLETED
        assert session.content == "Let me see. Found."
        assert api.images(server.requests[0].body) == [PNG]
        assert api.tools(server.requests[0].body) == ["add", "find"]
        body = server.requests[1].body
        returned = api.returns(body)
        assert list(returned) == ["c-1", "c-2"]
        assert '"sum": 3' in returned["c-1"]
        assert "took too long" in returned["c-2"]
        assert api.system(body) == "You are Ada."
        assert api.thought(body), "the provider gets what it signed"

    def test_an_image_s_address_goes_to_the_provider_and_is_never_opened_here(self, api: Api) -> None:
        address = "https://example.org/a.png"
        with api.scene(*says("A cat.")) as (scene, server):
            asked = Message("user", ("What?", Blob("image/png", uri=address), Blob("image/png", PNG)))
            if not api.takes_addresses:
                failure = asyncio.run(scene.failure(asked))
                assert (failure.code, server.requests) == ("model_input_refused", [])
                return
            assert asyncio.run(scene.heard(asked)).text == "A cat."
        assert api.images(server.requests[0].body) == [address, PNG]

    def test_an_answer_by_schema_is_asked_for_and_checked(self, api: Api) -> None:
        async def live(scene: Scene, server: ModelServer) -> None:
            assert await scene.model().answer("Where?", schema=PLACE) == {"city": "Lisbon"}
            server.then(says("nowhere"))
            assert (await scene.failure(schema=PLACE)).code == "model_schema_mismatch"

        with api.scene(*says('{"city"', ': "Lisbon"}')) as (scene, server):
            asyncio.run(live(scene, server))
        assert "city" in json.dumps(api.schema(server.requests[0].body))

    def test_the_last_round_calls_nothing(self, api: Api) -> None:
        with api.scene(*says("Done.")) as (scene, server):
            assert asyncio.run(scene.heard(tools=[ADD])).text == "Done."
            assert asyncio.run(scene.heard(tools=[ADD], may_call=False)).text == "Done."
        first, last = (request.body for request in server.requests)
        assert (api.may_not_call(first), api.may_not_call(last)) == (False, True)

    def test_the_budget_of_tokens_is_told_and_an_answer_that_is_cut_says_so(self, api: Api) -> None:
        async def live(scene: Scene) -> str:
            answer = scene.model().stream("Hi")
            async for _ in answer:
                pass
            return answer.finish_reason

        with api.scene("word", Finish("length"), output_tokens_max=50) as (scene, server):
            assert asyncio.run(live(scene)) == "length"
        assert api.tokens_max(server.requests[0].body) == 50

    @pytest.mark.parametrize("begun", ["silent", "begun", "word"])
    def test_a_stop_closes_the_connection(self, api: Api, begun: str) -> None:
        starts: dict[str, list[Step]] = {"silent": [], "begun": [Raw(api.begins)], "word": ["word"]}

        async def live(scene: Scene, server: ModelServer) -> None:
            listening = asyncio.ensure_future(scene.heard())
            await asyncio.to_thread(server.wait_for)
            assert server.requests[0].left_at is None
            scene.turn.hang_up()
            await asyncio.to_thread(server.wait_left)
            await asyncio.wait((listening,))
            assert listening.cancelled()

        with api.scene(*starts[begun], Pause()) as (scene, server):
            asyncio.run(live(scene, server))

    def test_failures_are_told_as_what_they_are_and_the_library_does_not_retry(self, api: Api) -> None:
        async def live() -> None:
            for expected in api.failures:
                with api.scene(expected.step, attempts=1) as (scene, server):
                    failure = await scene.failure()
                told = (failure.code, failure.upstream_status, failure.retry_after_s)
                assert told == (expected.code, expected.upstream_status, expected.retry_after_s), failure
                assert expected.words in str(failure)
                assert len(server.requests) == 1

        asyncio.run(live())

    def test_what_fails_in_passing_is_tried_again(self, api: Api) -> None:
        with api.server([Status(503, "overloaded", "overloaded_error")], [Reset()], says("fine")) as server:
            heard = asyncio.run(Scene({"fast": api.table(server)}).heard())
        assert (heard.text, len(server.requests)) == ("fine", 3)

    @pytest.mark.parametrize(("after", "code"), [([], "model_malformed"), ([Reset()], "model_unreachable")])
    def test_an_answer_that_breaks_off_is_none(self, api: Api, after: list[Step], code: str) -> None:
        with api.scene("half", *after) as (scene, server):
            heard = asyncio.run(scene.heard())
        assert (heard.text, len(server.requests)) == ("half", 1)
        assert heard.failure is not None
        assert (heard.failure.code, heard.failure.has_begun) == (code, True)

    def test_so_is_one_that_the_provider_s_filter_stops(self, api: Api) -> None:
        with api.scene("well", Finish("content_filter")) as (scene, _):
            heard = asyncio.run(scene.heard())
        assert heard.failure is not None
        assert heard.failure.code == "model_content_filtered"

    def test_only_the_key_that_is_named_is_sent_and_it_is_told_to_nobody(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
            monkeypatch.setenv(variable, "sk-another")
        with api.server([Status(401, "no such key: sk-hunter2", "authentication_error")]) as server:
            tables = {"fast": api.table(server, api_key_env="THE_KEY"), "plain": api.table(server)}
            scene = Scene(tables, {"THE_KEY": "sk-hunter2"})
            failure = asyncio.run(scene.failure())
            asyncio.run(scene.failure(name="plain"))
        assert [api.key(request) for request in server.requests] == ["sk-hunter2", "none"]
        assert "sk-another" not in str([request.headers for request in server.requests])
        assert (failure.code, "hunter2" in str(failure)) == ("model_key_refused", False)


def unquoted(data: str) -> bytes:
    """Bytes as JSON has them, alone or as an address of their own."""
    return base64.b64decode(data.rpartition(",")[2])
