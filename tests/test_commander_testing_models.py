"""Models in an author's test: they say what is scripted, by way of the real registry and adaptor, and keep what they
were asked."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asynchronous import asynchronous

from commander import BlockingTurn, ModelFailed, Output, Turn, agent
from commander.agents.assistant import assistant
from commander.testing import (
    HANGS,
    Finished,
    ModelRequest,
    Reasoning,
    ScriptedModel,
    ScriptError,
    Tokens,
    fails,
    run_agent,
    running_agent,
    wants,
)

Said = AsyncIterator[str | Output]


@agent
async def talks(turn: Turn) -> Said:
    async for output in turn.model(turn.metadata.get("model", "")).stream(
        turn.conversation, system="Be brief."
    ):
        yield output


@asynchronous
async def test_a_model_says_the_pieces_that_are_scripted() -> None:
    said = [Reasoning("Let me "), Reasoning("see."), "Hello", " world", Tokens(11, 5, 2)]
    run = await run_agent(talks, "Hi", models={"fast": said, "deep": ["never"]})
    assert (run.text, run.thoughts, run.kinds()) == (
        "Hello world",
        "Let me see.",
        ["thought", "content", "usage"],
    )
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.reasoning_tokens) == (11, 5, 2)
    (request,) = run.model_requests
    assert (request.model, request.text, request.system) == ("fast", "Hi", "Be brief.")
    assert (request.outcome, request.tools, request.schema) == ("answered", (), None)


@asynchronous
async def test_one_answer_is_for_every_request_and_a_list_has_one_for_each() -> None:
    @agent
    async def asks(turn: Turn) -> Said:
        for word in ("a", "b"):
            yield await turn.model("same").answer(word)
            yield await turn.model("each").answer(word)
            yield await turn.model("echo").answer(word)

    def echo(request: ModelRequest) -> list[str]:
        return [request.text.upper(), "."]

    models = {"same": "=", "each": [["1"], ["2", "!"]], "echo": echo}
    run = await run_agent(asks, models=models)
    assert run.text == "=1A.=2!B."
    assert [each.model for each in run.model_requests] == ["same", "each", "echo"] * 2


@asynchronous
async def test_what_a_model_wants_is_called_and_told_to_it() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    answers = [["Let me see. ", wants("add", a=1, b=2), wants("add", a=3, b=4)], ["Done."]]
    run = await run_agent(assistant, "Add them", models={"fast": answers}, tools={"add": add})
    assert run.text == "Let me see. Done."
    assert [call.result for call in run.calls] == [3, 7]
    first, second = run.model_requests
    assert first.tools == ("add",)
    assert second.returns == {"add": "7"}
    assert len(second.messages) == 4


@asynchronous
async def test_failures_in_passing_are_tried_again_and_then_fall_back() -> None:
    models = {
        "fast": ScriptedModel(
            [fails("model_unavailable", upstream_status=503)], attempts=2, fallbacks=["deep"]
        ),
        "deep": ["deep"],
    }
    run = await run_agent(talks, "Hi", models=models)
    assert run.text == "deep"
    assert [(each.model, each.outcome) for each in run.model_requests] == [
        ("fast", "failed"),
        ("fast", "failed"),
        ("deep", "answered"),
    ]


@asynchronous
async def test_a_failure_is_a_model_failed_with_all_that_is_scripted() -> None:
    failure = fails("model_rate_limited", "slow down", upstream_status=429, retry_after_s=60)
    run = await run_agent(talks, "Hi", models={"fast": ["half", failure]})
    assert (run.outcome, run.text) == ("failed", "half")
    assert run.failure is not None
    assert (run.failure.code, run.failure.upstream_status, run.failure.retry_after_s) == (
        "model_rate_limited",
        429,
        60,
    )
    assert run.failure.origin == "model"
    assert "after it had begun to answer: slow down" in run.failure.message


@pytest.mark.parametrize("said", [[HANGS], ["word", HANGS]])
@asynchronous
async def test_a_stop_leaves_a_model_that_hangs(said: list[Any]) -> None:
    async with running_agent(talks, "Hi", models={"fast": said}) as run:
        if len(said) > 1:
            await run.until_text("word")
        else:
            await run.until_model_request()
        assert run.model_requests[0].outcome == ""
        run.stop()
        await run.over()
    assert [each.outcome for each in run.model_requests] == ["left"]


@asynchronous
async def test_limits_of_a_table_count() -> None:
    late = ScriptedModel([HANGS], first_token_s=0.05, attempts=1)
    run = await run_agent(talks, "Hi", models={"fast": late})
    assert run.failure is not None
    assert run.failure.code == "model_timeout"


@asynchronous
async def test_an_answer_by_schema_is_checked_and_its_end_may_be_scripted() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    @agent
    async def asks(turn: Turn) -> Said:
        yield str(await turn.model().answer("n?", schema=schema))
        cut = turn.model().stream("more")
        async for output in cut:
            yield output
        yield cut.finish_reason
        try:
            await turn.model().answer("n?", schema=schema)
        except ModelFailed as failure:
            yield failure.code

    answers = [['{"n"', ": 6}"], ["half", Finished("length")], ['{"m": 6}']]
    run = await run_agent(asks, models={"fast": answers})
    assert run.text == "{'n': 6}halflengthmodel_schema_mismatch"
    assert run.model_requests[0].schema == schema


@asynchronous
async def test_sync_agents_have_scripted_models_too() -> None:
    @agent
    def asks(turn: BlockingTurn) -> Iterator[str | Output]:
        yield from turn.model().stream(turn.text)

    run = await run_agent(asks, "Hi", models={"fast": ["Hello"]})
    assert (run.text, run.model_requests[0].text) == ("Hello", "Hi")


# ---- what a test gets wrong ----


@asynchronous
async def test_what_is_not_scripted_is_told() -> None:
    @agent
    async def asks(turn: Turn) -> Said:
        for _ in range(3):
            yield await turn.model().answer("Go on")

    with pytest.raises(
        ScriptError, match="'fast' was asked 2 times, and the test has scripted 1 answers; the last"
    ):
        await run_agent(asks, models={"fast": [["once"]]})
    run = await run_agent(talks, metadata={"model": "fats"}, models={"fast": ["Hello"]})
    assert run.failure is not None
    assert "did you mean fast?" in run.failure.message
    none = await run_agent(talks)
    assert none.failure is not None
    assert none.failure.code == "model_not_configured"


@pytest.mark.parametrize(
    ("script", "right"),
    [
        (["a", ["b"]], "this one is both"),
        ([7], "a piece of an answer is a str, Reasoning, Tokens, Finished"),
        ([["a"], [None]], "a piece of an answer is a str"),
    ],
)
@asynchronous
async def test_a_script_that_is_none_is_refused(script: Any, right: str) -> None:
    with pytest.raises(ScriptError, match=right):
        await run_agent(talks, models={"fast": script})


def test_a_failure_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        ScriptError, match="there is no failure 'model_tired'; there are model_rate_limited, "
    ):
        fails("model_tired")


@asynchronous
async def test_an_error_of_the_test_s_own_function_is_raised_in_the_test() -> None:
    def breaks(request: ModelRequest) -> list[str]:
        raise KeyError(request.text)

    with pytest.raises(KeyError, match="Hi"):
        await run_agent(talks, "Hi", models={"fast": breaks})
