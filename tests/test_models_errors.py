"""How models fail, at real HTTP servers: what is tried again, what is handed to a fallback, what is told to whom."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from model_scene import Heard, Scene, table
from model_server import Call, Finish, ModelServer, Pause, Raw, Reset, Status, Step, Thought, says

from commander.models.failures import FAILURES


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


PASSING: list[tuple[str, Step, int | None]] = [
    ("model_rate_limited", Status(429, "slow down"), 429),
    ("model_unavailable", Status(500), 500),
    ("model_unavailable", Status(503), 503),
    ("model_unavailable", Status(529, "overloaded"), 529),
    ("model_unreachable", Reset(), None),
]
FOR_GOOD: list[tuple[str, list[Step], int | None]] = [
    ("model_key_refused", [Status(401, "Incorrect API key provided")], 401),
    ("model_key_refused", [Status(403, "not for you")], 403),
    ("model_unknown", [Status(404, "no such model", "model_not_found")], 404),
    (
        "model_context_too_long",
        [Status(400, "maximum context length is 8192", "context_length_exceeded")],
        400,
    ),
    ("model_context_too_long", [Status(400, "the request exceeds the available context size")], 400),
    (
        "model_content_filtered",
        [Status(400, "stopped by our content management policy", "content_filter")],
        400,
    ),
    ("model_content_filtered", [Finish("content_filter")], None),
    ("model_request_refused", [Status(422, "temperature: too hot")], 422),
    ("model_malformed", [Raw(b"data: {nope\n\n")], None),
    ("model_malformed", [Raw(b"data: [1, 2]\n\n")], None),
    ("model_malformed", [Raw(b"data: null\n\n")], None),
    ("model_malformed", [Raw(b'data: "x"\n\n')], None),
    ("model_malformed", [Raw(b"<html>Welcome to the router</html>\n")], None),
]


@pytest.mark.parametrize(("code", "step", "status"), PASSING)
def test_what_fails_in_passing_is_tried_again(
    server: ModelServer, code: str, step: Step, status: int | None
) -> None:
    server.then([step], [step], says("fine"))
    scene = Scene({"fast": table(server)})
    heard = asyncio.run(scene.heard())
    assert (heard.text, heard.failure) == ("fine", None)
    assert len(server.requests) == 3
    assert scene.counted("commander_model_retries_total", model="fast", code=code) == 2
    assert scene.counted("commander_model_requests_total", model="fast", outcome="completed") == 1


@pytest.mark.parametrize(("code", "step", "status"), PASSING)
def test_what_goes_on_failing_is_told_with_its_status_and_may_be_tried_later(
    server: ModelServer, code: str, step: Step, status: int | None
) -> None:
    server.then([step])
    failure = asyncio.run(Scene({"fast": table(server)}).failure())
    assert len(server.requests) == 3
    assert (failure.code, failure.upstream_status, failure.retryable) == (code, status, True)
    assert (failure.model, failure.origin, failure.has_begun) == ("fast", "model", False)
    assert FAILURES[code].advice in str(failure)


# What servers say with a status that says less, or another thing.
WORDS: list[tuple[str, Status]] = [
    ("model_context_too_long", Status(400, "prompt is too long: 210000 tokens > 200000 maximum")),
    (
        "model_context_too_long",
        Status(
            400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        ),
    ),
    ("model_context_too_long", Status(400, "`inputs` tokens + `max_new_tokens` must be <= 4096")),
    ("model_context_too_long", Status(400, "Range of input length should be [1, 129024]")),
    ("model_context_too_long", Status(413, "Request too large for model `x`")),
    ("model_key_refused", Status(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT")),
    ("model_unknown", Status(400, "foo/bar is not a valid model ID")),
    ("model_unknown", Status(400, "Model Not Exist")),
    ("model_content_filtered", Status(403, "input flagged by moderation: violence")),
    (
        "model_content_filtered",
        Status(400, "rejected as a result of our safety system", "moderation_blocked"),
    ),
    ("model_request_refused", Status(403, "Country, region, or territory not supported")),
    ("model_request_refused", Status(400, "temperature is not supported in this model")),
    ("model_key_refused", Status(403, "not for you")),
]


@pytest.mark.parametrize(("code", "status"), WORDS)
def test_the_words_of_a_refusal_say_what_it_is(server: ModelServer, code: str, status: Status) -> None:
    server.then([status])
    failure = asyncio.run(Scene({"fast": table(server)}).failure())
    assert (failure.code, failure.upstream_status) == (code, status.status)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("code", "script", "status"), FOR_GOOD)
def test_what_fails_for_good_is_told_at_once(
    server: ModelServer, code: str, script: list[Step], status: int | None
) -> None:
    server.then(script)
    with ModelServer() as other:
        scene = Scene({"fast": table(server, fallbacks=["other"]), "other": table(other)})
        failure = asyncio.run(scene.failure())
        assert not other.requests
    assert len(server.requests) == 1
    assert (failure.code, failure.upstream_status, failure.retryable) == (code, status, False)


def test_the_library_does_not_retry_beside_us(server: ModelServer) -> None:
    server.then([Status(503)])
    asyncio.run(Scene({"fast": table(server, attempts=1)}).failure())
    assert len(server.requests) == 1
    assert server.requests[0].headers["x-stainless-retry-count"] == "0"


def test_the_waits_grow(server: ModelServer) -> None:
    server.then([Status(500)])
    asyncio.run(Scene({"fast": table(server, retry_first_s=0.2, retry_factor=4)}).failure())
    first, second, third = (request.came_at for request in server.requests)
    assert second - first >= 0.1
    assert third - second >= 0.4


def test_retry_after_is_heeded(server: ModelServer) -> None:
    server.then([Status(429, headers={"Retry-After": "1"})], says("fine"))
    assert asyncio.run(Scene({"fast": table(server)}).heard()).text == "fine"
    first, second = server.requests
    assert second.came_at - first.came_at >= 1


def test_who_wants_to_be_left_alone_for_too_long_is_not_asked_again(server: ModelServer) -> None:
    server.then([Status(429, headers={"Retry-After": "31"})])
    failure = asyncio.run(Scene({"fast": table(server)}).failure())
    assert len(server.requests) == 1
    assert (failure.code, failure.retryable, failure.retry_after_s) == ("model_rate_limited", True, 31)


def test_a_turn_with_little_time_left_does_not_spend_it_waiting(server: ModelServer) -> None:
    server.then([Status(500)])
    failure = asyncio.run(Scene({"fast": table(server, retry_first_s=60)}, left_s=5.0).failure())
    assert (len(server.requests), failure.code) == (1, "model_unavailable")


def test_fallbacks_are_asked_in_their_order_and_theirs_after_them(server: ModelServer) -> None:
    server.then([Status(500)])
    with ModelServer([Status(503)]) as second, ModelServer(says("third")) as third, ModelServer() as fourth:
        scene = Scene(
            {
                "fast": table(server, fallbacks=["b", "d"], attempts=2),
                "b": table(second, fallbacks=["c"], attempts=1),
                "c": table(third),
                "d": table(fourth),
            }
        )
        heard = asyncio.run(scene.heard())
        counts = [len(each.requests) for each in (server, second, third, fourth)]
    assert (heard.text, counts) == ("third", [2, 1, 1, 0])
    assert scene.counted("commander_model_fallbacks_total", model="fast", to="c") == 1


def test_when_the_last_fallback_fails_its_failure_is_told_and_the_one_before(server: ModelServer) -> None:
    server.then([Status(500)])
    with ModelServer([Status(401, "bad key")]) as second:
        failure = asyncio.run(Scene({"fast": table(server, fallbacks=["b"]), "b": table(second)}).failure())
    assert (failure.code, failure.model) == ("model_key_refused", "b")
    assert "before: model_unavailable of 'fast'" in str(failure)
    assert failure.retryable, "the first may be well again by then"


@pytest.mark.parametrize("status", [401, 404, 400])
def test_a_fallback_that_can_not_is_passed_over(server: ModelServer, status: int) -> None:
    server.then([Status(500)])
    with ModelServer([Status(status)]) as second, ModelServer(says("third")) as third:
        scene = Scene(
            {
                "fast": table(server, fallbacks=["b", "c"], attempts=1),
                "b": table(second),
                "c": table(third),
            }
        )
        heard = asyncio.run(scene.heard())
        assert (heard.text, len(second.requests)) == ("third", 1)


@pytest.mark.parametrize("begun", ["word", Thought("hm"), Call("search", ['{"q": '])])
@pytest.mark.parametrize("after", [[Reset()], []])
def test_after_the_first_token_nothing_is_repeated(
    server: ModelServer, begun: Step, after: list[Step]
) -> None:
    server.then([begun, *after])
    with ModelServer() as other:
        heard = asyncio.run(Scene({"fast": table(server, fallbacks=["b"]), "b": table(other)}).heard())
        assert not other.requests
    assert len(server.requests) == 1
    assert heard.failure is not None
    assert heard.failure.has_begun
    assert heard.failure.code == ("model_unreachable" if after else "model_malformed")
    assert heard.text == (begun if isinstance(begun, str) else "")


def test_an_error_within_the_stream_has_its_own_words(server: ModelServer) -> None:
    server.then([Raw(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')])
    failure = asyncio.run(Scene({"fast": table(server, attempts=1)}).failure())
    assert "out of memory" in str(failure)


def test_a_first_token_that_does_not_come_is_a_timeout_and_tried_again(server: ModelServer) -> None:
    server.then([Pause()], says("fine"))
    assert asyncio.run(Scene({"fast": table(server, first_token_s=0.3)}).heard()).text == "fine"
    assert server.wait_left(1) >= server.requests[0].came_at + 0.2


def test_a_silence_in_the_middle_is_a_timeout_and_not_tried_again(server: ModelServer) -> None:
    server.then(["word", Pause()])
    heard = asyncio.run(Scene({"fast": table(server, silence_s=0.2)}).heard())
    assert heard.text == "word"
    assert heard.failure is not None
    assert (heard.failure.code, heard.failure.has_begun) == ("model_timeout", True)
    assert "silence_s = 0.2" in str(heard.failure)
    assert len(server.requests) == 1


def test_an_answer_without_an_end_is_a_timeout(server: ModelServer) -> None:
    server.then([*["word "] * 100_000, Pause()])
    heard = asyncio.run(Scene({"fast": table(server, whole_s=0.5)}).heard())
    assert heard.failure is not None
    assert "whole_s = 0.5" in str(heard.failure)


def test_nobody_there_is_told_as_such() -> None:
    with closing(ModelServer()) as gone:
        tables = {"fast": table(gone, attempts=2)}
    failure = asyncio.run(Scene(tables).failure())
    assert (failure.code, failure.retryable) == ("model_unreachable", True)


def test_one_too_many_waits_for_a_place_and_is_told_when_there_is_none(server: ModelServer) -> None:
    async def three() -> tuple[str, str]:
        scene = Scene({"fast": table(server, concurrency=1, first_token_s=0.5)})
        server.then([Thought("hm"), Pause(), *says("done")])
        first = asyncio.ensure_future(scene.heard())
        await asyncio.to_thread(server.wait_for)
        assert (await scene.failure()).code == "model_busy"
        waiting = asyncio.ensure_future(scene.heard())
        server.go_on()
        return (await first).text, (await waiting).text

    assert asyncio.run(three()) == ("done", "done")


# ---- the circuit ----


def test_a_provider_that_fails_again_and_again_is_left_alone_and_tried_after_a_while(
    server: ModelServer,
) -> None:
    async def live() -> None:
        tables = {"fast": table(server), "deep": table(server)}
        scene = Scene(tables, breaker_failures=3, breaker_open_s=0.3)
        circuit = f"openai-chat {server.base_url}"

        def state(name: str) -> float:
            return scene.counted("commander_model_circuit", provider=circuit, state=name)

        server.then([Status(500)])
        await scene.failure()
        assert (state("open"), state("closed")) == (1, 0)
        assert scene.counted("commander_model_circuit_failures", provider=circuit) == 3
        # The other model is of the same provider, and nobody waits for it.
        failure = await scene.failure(name="deep")
        assert (failure.code, failure.retryable) == ("model_circuit_open", True)
        assert failure.retry_after_s is not None
        assert 0 < failure.retry_after_s <= 0.3
        assert len(server.requests) == 3
        await asyncio.sleep(failure.retry_after_s)
        server.then([Status(500)], ["half", Pause(), *says("done")])
        await scene.failure()
        assert state("open") == 1, "it tried once, and failed"
        assert len(server.requests) == 4
        await asyncio.sleep(0.3)
        trying = asyncio.ensure_future(scene.heard())
        await asyncio.to_thread(server.wait_for, 5)
        server.go_on()
        assert (await trying).text == "halfdone"
        assert (state("closed"), state("open"), state("half_open")) == (1, 0, 0)

    asyncio.run(live())


@pytest.mark.parametrize("after", [[Reset()], []], ids=["reset", "end"])
def test_answers_that_break_off_again_and_again_open_it(server: ModelServer, after: list[Step]) -> None:
    async def live() -> None:
        scene = Scene({"fast": table(server)}, breaker_failures=3)
        for _ in range(3):
            server.then(["word", *after])
            assert (await scene.failure()).has_begun
        assert (await scene.failure()).code == "model_circuit_open"

    asyncio.run(live())
    assert len(server.requests) == 3


def test_answers_that_nobody_takes_in_time_do_not_open_it(server: ModelServer) -> None:
    async def live() -> None:
        scene = Scene({"fast": table(server, whole_s=2.0)}, breaker_failures=1)
        # More than waits here for being taken, so that the model has to wait.
        server.then([*["word "] * 200, Finish()])
        heard = Heard()
        async for output in scene.model().stream("Hi"):
            if not heard.text:
                await asyncio.sleep(2.5)
            heard.take(output)
        assert heard.text == "word " * 200
        # And one that goes on and on is over, but no fault of the provider's.
        server.then([*["word "] * 100_000, Pause()])
        assert "whole_s" in str(await scene.failure())
        server.then(says("fine"))
        assert (await scene.heard()).text == "fine"

    asyncio.run(live())


def test_an_open_circuit_goes_to_the_fallback_at_once(server: ModelServer) -> None:
    async def live() -> str:
        with ModelServer(says("other")) as other:
            scene = Scene(
                {"fast": table(server, fallbacks=["b"], attempts=1), "b": table(other)}, breaker_failures=1
            )
            server.then([Status(500)])
            await scene.heard()
            return (await scene.heard()).text

    assert asyncio.run(live()) == "other"
    assert len(server.requests) == 1


def test_what_the_provider_refuses_is_no_failure_of_the_provider(server: ModelServer) -> None:
    async def live() -> str:
        scene = Scene({"fast": table(server, attempts=1)}, breaker_failures=1)
        for status in (400, 401, 404, 429):
            server.then([Status(status)])
            await scene.failure()
        server.then(says("fine"))
        return (await scene.heard()).text

    assert asyncio.run(live()) == "fine"


def test_a_refusal_in_between_is_an_answer(server: ModelServer) -> None:
    async def live() -> str:
        scene = Scene({"fast": table(server, attempts=1)}, breaker_failures=2)
        for status in (500, 400, 500):
            server.then([Status(status)])
            await scene.failure()
        server.then(says("fine"))
        return (await scene.heard()).text

    assert asyncio.run(live()) == "fine"


# ---- keys ----


@pytest.mark.parametrize("quoted", ["Incorrect API key provided: sk-hunter2.", "no model for sk-hunter2"])
def test_a_key_that_the_server_quotes_is_told_to_nobody(
    server: ModelServer, quoted: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.then([Status(500, quoted)])
    scene = Scene({"fast": table(server, api_key_env="THE_KEY")}, {"THE_KEY": "sk-hunter2"})
    failure = asyncio.run(scene.failure())
    assert server.requests[0].headers["authorization"] == "Bearer sk-hunter2"
    entry = scene.models.entry("fast")
    for told in (
        str(failure),
        repr(failure),
        caplog.text,
        repr(scene.models),
        repr(entry),
        scene.exposition(),
    ):
        assert "hunter2" not in told


@pytest.mark.parametrize("before", [210, 225, 237, 239, 4_000])
def test_no_part_of_a_key_is_told_that_is_quoted_where_the_text_is_cut(
    server: ModelServer, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.then([Status(500, "x" * before + " sk-hunter2-hunter2-hunter2-hunter2")])
    key = {"THE_KEY": "sk-hunter2-hunter2-hunter2-hunter2"}
    scene = Scene({"fast": table(server, api_key_env="THE_KEY", attempts=2)}, key)
    failure = asyncio.run(scene.failure())
    assert "sk-" not in f"{failure} {caplog.text}"
    assert "xxx" in str(failure)


def test_a_key_of_a_provider_s_usual_variable_is_told_to_nobody(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.then(lambda request: [Status(401, f"no such key: {request.headers['authorization']}")])
    failure = asyncio.run(Scene({"fast": {"model": "openai-chat:m"}}).failure())
    assert server.requests[0].headers["authorization"] == "Bearer sk-hunter2"
    assert failure.code == "model_key_refused"
    assert "no such key: Bearer …" in str(failure)
    assert "hunter2" not in f"{failure} {caplog.text}"


def test_a_provider_that_raises_as_it_likes_puts_no_key_into_the_log(
    server: ModelServer, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rude.py").write_text(
        "class Rude:\n"
        "    def __init__(self, connection):\n"
        "        self.key = connection.key.reveal()\n"
        "    async def stream(self, ask):\n"
        "        raise OSError(f'no luck with {self.key}')\n"
        "        yield\n"
    )
    told = tmp_path / "rude-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: rude\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[chatstream.models]\nrude = rude:Rude\n")
    monkeypatch.syspath_prepend(tmp_path)
    scene = Scene({"fast": {"model": "rude:m", "api_key_env": "THE_KEY"}}, {"THE_KEY": "sk-hunter2"})
    failure = asyncio.run(scene.failure())
    stack = "".join(getattr(record, "stack", "") for record in caplog.records)
    assert failure.code == "model_error"
    assert "OSError: no luck with …" in stack
    assert "hunter2" not in f"{failure} {caplog.text} {stack}"


@pytest.mark.parametrize("model", ["openai-chat:m", "openai:m"])
def test_the_key_of_another_server_is_not_sent_to_this_one(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    # Whether it can make anything of the answer is another matter.
    asyncio.run(Scene({"fast": table(server, model=model, attempts=1)}).heard())
    assert server.requests[0].headers["authorization"] == "Bearer none"
