"""The examples, in memory by the testing kit that authors have; through processes where it is about these.
test_agents_page.py runs all of them as their docstrings say."""

import ast
import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from commander_process import running_commander
from dispatcher_process import running_dispatcher
from model_server import Call, ModelServer, Status, calls, says
from page import ROOT

import examples.tools
from commander import Message, Published, PublishedCall, ToolDenied, ToolFailed, ToolNotFound
from commander.models import Reply, ToolReturn
from commander.models.scripted import Piece
from commander.testing import (
    DECLINED,
    AgentRun,
    ModelRequest,
    ScriptedModel,
    fails,
    run_agent,
    running_agent,
    wants,
)
from examples.batch import AT_ONCE, batch
from examples.desk import billing, desk, orders
from examples.hello import hello
from examples.resume import survey
from examples.steered import tour
from examples.studio.agents import ANALYST, EDITOR, SPECIALISTS, studio
from examples.studio.office import SALES
from examples.weather import weather
from examples.wizard import wizard

FOLDER = ROOT / "examples"
# Where the settings say that a model is.
SERVER = "http://127.0.0.1:8000/v1"


# -- hello -------------------------------------------------------------------------------------------------------


@asynchronous
async def test_hello_greets() -> None:
    run = await run_agent(hello, "Ada")
    assert (run.text, run.outcome) == ("Hello, Ada!", "completed")
    source = (FOLDER / "hello.py").read_text()
    code = source.replace(f'"""{ast.get_docstring(ast.parse(source), clean=False)}"""', "")
    assert len([line for line in code.splitlines() if line]) <= 10


# -- weather -----------------------------------------------------------------------------------------------------


@asynchronous
async def test_weather_tells_the_model_what_the_tool_returned() -> None:
    answers: list[list[Piece]] = [
        [fails("model_rate_limited")],
        [wants("forecast", city="Lisbon"), wants("forecast", city="Atlantis")],
        ["Take a coat."],
    ]
    model = ScriptedModel(answers, attempts=2)
    run = await run_agent(
        weather, "Lisbon?", models={"fast": model}, tools={"forecast": inland, "clock": inland}
    )
    assert run.text == "Take a coat."
    assert [request.tools for request in run.model_requests] == [("forecast",)] * 3
    assert [(call.arguments["city"], call.failure) for call in run.calls] == [
        ("Lisbon", ""),
        ("Atlantis", "failed"),
    ]
    question, reply, found, sunk = run.model_requests[-1].messages
    assert isinstance(question, Message)
    assert isinstance(reply, Reply)
    assert isinstance(found, ToolReturn)
    assert isinstance(sunk, ToolReturn)
    assert (json.loads(found.content), found.failed) == ({"city": "Lisbon", "days": ["rain"]}, False)
    assert (sunk.content.endswith("it has sunk"), sunk.failed) == (True, True)


@asynchronous
async def test_weather_asks_the_spare_model_when_the_first_one_is_away() -> None:
    models = {
        "fast": ScriptedModel([fails("model_unavailable")], attempts=2, fallbacks=["spare"]),
        "spare": ["Sun."],
    }
    run = await run_agent(weather, models=models, tools={"forecast": inland})
    assert run.text == "Sun."
    assert [request.model for request in run.model_requests] == ["fast", "fast", "spare"]


@asynchronous
async def test_weather_gives_up_a_model_that_never_answers() -> None:
    model = ScriptedModel(lambda _: [wants("forecast", city="Lisbon")], rounds=3)
    run = await run_agent(weather, models={"fast": model}, tools={"forecast": inland})
    assert run.failure is not None
    assert (run.failure.code, len(run.model_requests)) == ("rounds_spent", 3)


def test_weather_s_settings_try_again(tmp_path: Path) -> None:
    """Through processes: a provider that is overloaded at first."""
    forecast = calls(Call("forecast", ['{"city": "Lisbon"}']))
    with (
        ModelServer([Status(503)], forecast, [Status(429)], says("Take a coat.")) as server,
        running_dispatcher("--config", str(FOLDER / "dispatcher.toml")) as dispatcher,
    ):
        settings = tmp_path / "weather.toml"
        settings.write_text((FOLDER / "weather.toml").read_text().replace(SERVER, server.base_url))
        there = ("--dispatcher", dispatcher.address)
        with running_commander(
            tmp_path, str(FOLDER / "weather.py"), "--config", str(settings), *there
        ) as commander:
            commander.wait_for("linked")
            asked = ["chat", "--agent", "weather", "--answer", *there, "Lisbon?"]
            answer = subprocess.run(
                [sys.executable, "-m", "dispatcher", *asked], capture_output=True, text=True, check=True
            )
    assert answer.stdout.strip() == "Take a coat."
    assert [request.body["model"] for request in server.requests] == ["stand-in"] * 4
    assert json.loads(server.requests[-1].messages[-1]["content"])["city"] == "Lisbon"


def inland(city: str) -> dict[str, object]:
    if city == "Atlantis":
        raise ToolFailed("forecast", "it has sunk")
    return {"city": city, "days": ["rain"]}


# -- wizard ------------------------------------------------------------------------------------------------------

WHO, DAY, PLACE = 'Who comes? For example {"adults": 2}', "Which day?", "Inside or outside?"
BOOK, WISH = "A table for 3 on Friday, inside. Shall I book it?", "Anything that we should know?"
ANSWERS = {WHO: {"adults": 2, "children": 1}, DAY: "Friday", PLACE: "inside", BOOK: "yes", WISH: "a birthday"}


@asynchronous
async def test_the_wizard_books_what_was_answered() -> None:
    run = await run_agent(wizard, answers=ANSWERS)
    assert run.text == "Booked for 3 on Friday, inside, noted: a birthday."
    assert [each.text for each in run.questions] == [WHO, DAY, PLACE, BOOK, WISH]
    assert run.questions[0].schema["required"] == ["adults"]


@asynchronous
async def test_the_wizard_asks_two_at_once_and_does_without_the_last() -> None:
    async with running_agent(wizard) as run:
        await run.until("question")
        run.answer({"adults": 3})
        both = [(await run.until("question")).fields["question_id"] for _ in (DAY, PLACE)]
        run.answer("inside", both[1])
        run.answer("Friday", both[0])
        await run.until("question")
        run.answer("yes")
        assert (await run.until("question")).fields["expires_in"] == "60s"
        run.expire()
        await run.over()
    assert run.text == "Booked for 3 on Friday, inside."


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        (WHO, DECLINED, "Nothing is booked: the question was declined."),
        (PLACE, DECLINED, "Nothing is booked: the question was declined."),
        (BOOK, "no", "Then I leave it."),
    ],
)
@asynchronous
async def test_the_wizard_books_nothing_without_an_answer_that_it_needs(
    question: str, answer: object, told: str
) -> None:
    run = await run_agent(wizard, answers={**ANSWERS, question: answer})
    assert (run.text, run.outcome) == (told, "completed")


@asynchronous
async def test_the_wizard_says_that_nobody_came_in_time() -> None:
    async with running_agent(wizard) as run:
        await run.until("question")
        run.expire()
        await run.over()
    assert run.text == "Nothing is booked: the question was expired."


# -- batch -------------------------------------------------------------------------------------------------------


class Post:
    """Delivers no letter before so many are under way, and counts the most that were."""

    def __init__(self, at_once: int) -> None:
        self.under_way = self.most = 0
        self._at_once = at_once
        self._enough = asyncio.Event()

    async def send_letter(self, to: str) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.most == self._at_once:
            self._enough.set()
        await self._enough.wait()
        for _ in range(100):  # whoever else may come, comes
            await asyncio.sleep(0)
        self.under_way -= 1
        if to == "nobody":
            raise ToolFailed("send_letter", "there is no @ in this address")
        return "delivered"


@asynchronous
async def test_the_batch_sends_all_and_tells_of_the_one_that_failed() -> None:
    post, addresses = Post(AT_ONCE), [f"a{number}@example.com" for number in range(9)]
    run = await run_agent(
        batch, " ".join([*addresses, "nobody", addresses[0]]), tools={"send_letter": post.send_letter}
    )
    assert run.text == "9 of 10 sent.\nnobody: there is no @ in this address"
    assert post.most == AT_ONCE
    assert sorted(call.arguments["to"] for call in run.calls) == sorted([*addresses, "nobody"])
    told = [event.fields for event in run.events if event.kind == "progress"]
    assert [(each["current"], each["total"], each["percent"]) for each in told] == [
        (number, 10, pytest.approx(10 * number)) for number in range(1, 11)
    ]
    assert all(re.fullmatch(r"\S+ (sent|failed), about \d+ (s|min) left", each["text"]) for each in told[:-1])
    assert re.fullmatch(r"\S+ (sent|failed)", told[-1]["text"])
    keys = {event.fields["idempotency_key"] for event in run.events if event.kind == "tool_call"}
    assert len(keys) == 10


@asynchronous
async def test_a_batch_of_nothing_sends_nothing() -> None:
    run = await run_agent(batch, " ")
    assert (run.text, run.calls) == ("0 of 0 sent.", [])


@asynchronous
async def test_a_stop_ends_the_batch() -> None:
    post = Post(99)
    async with running_agent(batch, "a@b c@d", tools={"send_letter": post.send_letter}) as run:
        await run.until("tool_call")
        run.stop()
        await run.over()
    assert (run.outcome, run.text) == ("stopped", "")


# -- resume ------------------------------------------------------------------------------------------------------

# How soon a dead commander is replaced.
QUICK = ("--heartbeat-interval-s", "1", "--detach-grace-s", "3.1")
ROOMS = "kitchen hall bath"
WHOLE = "".join(f"The {room} has {4 * len(room)} square metres.\n" for room in ROOMS.split())


def measured(room: str, result_json: str | None) -> PublishedCall:
    return PublishedCall("measure", json.dumps({"room": room}), result_json, None, f"key-of-{room}")


@pytest.mark.parametrize("length", [0, 5, len(WHOLE) // 2, len(WHOLE)])
@asynchronous
async def test_the_survey_goes_on_to_the_character(length: int) -> None:
    # The second attempt was lost as well: it had repeated the call of the first one, and was answered.
    before = (measured("kitchen", None), measured("kitchen", "28"), measured("hall", None))
    async with running_agent(
        survey, ROOMS, attempt=2, published=Published(WHOLE[:length], before), tools={"measure": area}
    ) as run:
        await run.over()
    assert WHOLE[:length] + run.text == WHOLE
    asked = [event.fields for event in run.events if event.kind == "tool_call"]
    assert [(json.loads(each["arguments_json"])["room"]) for each in asked] == ["hall", "bath"]
    assert asked[0]["idempotency_key"] == "key-of-hall"


def area(room: str) -> int:
    return 4 * len(room)


@asynchronous
async def test_the_survey_outlives_its_commander(tmp_path: Path) -> None:
    """As its docstring says: two commanders, and a kill -9 in the middle."""
    rooms = "kitchen hall bath attic cellar loft study porch"
    path = str(FOLDER / "resume.py")
    with (
        running_dispatcher("--config", str(FOLDER / "dispatcher.toml"), *QUICK) as dispatcher,
        contextlib.ExitStack() as stack,
    ):

        def commander(name: str) -> Any:
            begun = running_commander(
                tmp_path, path, "--dispatcher", dispatcher.address, "--commander-id", name
            )
            process = stack.enter_context(begun)
            process.wait_for("linked")
            return process

        first = commander("one")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("survey", rooms)
            await seen.until_text("kitchen has")
            commander("two")
            first.tell(signal.SIGKILL)
            ended = await seen.ended()
    assert ended.name == "completed"
    assert seen.text == "".join(f"The {room} has {area(room)} square metres.\n" for room in rooms.split())
    assert "reset" not in seen.kinds


# -- steered -----------------------------------------------------------------------------------------------------


@asynchronous
async def test_the_tour_goes_where_it_is_told_and_gives_its_seat_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_agent(tour, "Lisbon") as run:
        await run.until_text("1. Another street of Lisbon.")
        run.say("Porto")
        await run.until_text("On to Porto!\n")
        await run.until_text("street of Porto.")
        run.say("enough")
        await run.over()
    assert run.text.endswith("As you like.")
    assert run.outcome == "completed"
    assert capsys.readouterr().out.splitlines()[-1].startswith("tour: gave back the seat of test-")


@asynchronous
async def test_a_tour_that_is_stopped_gives_its_seat_back(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_agent(tour, "Lisbon") as run:
        await run.until_text("1. ")
        run.stop()
        await run.over()
    assert run.outcome == "stopped"
    took, gave = capsys.readouterr().out.splitlines()
    assert took.startswith("tour: took a seat for test-")
    assert gave.startswith("tour: gave back the seat of test-")


# -- desk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "where", "paid"),
    [
        (7, "Order 7 was sent on Monday.", "It is paid."),
        (8, "Order 8 is here yet.", "30 euros are owed for it."),
    ],
)
@asynchronous
async def test_the_colleagues_of_the_desk_know_their_orders(number: int, where: str, paid: str) -> None:
    assert (await run_agent(orders, f"Where is order {number}?")).text == where
    assert (await run_agent(billing, f"Is {number} paid?")).text == paid


@asynchronous
async def test_a_colleague_says_what_is_missing() -> None:
    run = await run_agent(orders, "Where is my order?")
    assert run.failure is not None
    assert run.failure.code == "no_number"


@pytest.mark.parametrize(
    ("paid", "told"),
    [
        ("It is paid.", "Is there anything else?"),
        ("30 euros are owed for it.", "It leaves as soon as it is paid."),
    ],
)
@asynchronous
async def test_the_desk_makes_one_answer_of_two(paid: str, told: str) -> None:
    run = await run_agent(
        desk, "Order 8?", tools={"orders": lambda text: f"It is here: {text}", "billing": lambda text: paid}
    )
    assert run.text.strip() == told
    assert {(call.tool, call.arguments["text"]) for call in run.calls} == {
        ("orders", "Order 8?"),
        ("billing", "Order 8?"),
    }


@asynchronous
async def test_the_desk_does_without_a_colleague_who_is_away() -> None:
    def nobody(text: str) -> str:
        raise ToolNotFound("billing", "nobody serves it")

    run = await run_agent(desk, "Order 8?", tools={"orders": lambda text: "It is here.", "billing": nobody})
    assert run.text.strip() == "Not all of my colleagues are in; please ask again later."


# -- studio ------------------------------------------------------------------------------------------------------


def speaking(failing: str = "") -> Callable[[ModelRequest], list[Piece]]:
    """A model that plays everybody; whoever has the failing system prompt fails."""
    names = {ANALYST: "analyst", EDITOR: "editor"} | {system: name for name, system in SPECIALISTS.items()}

    def say(request: ModelRequest) -> list[Piece]:
        if request.system == failing:
            return [fails("model_content_filtered")]
        return [f"The {names[request.system]} heard: {request.text}"]

    return say


async def studio_run(publish: Callable[..., object], failing: str = "") -> AgentRun:
    tools = {"office_sales": lambda months: {"cups": SALES[-months:]}, "office_publish": publish}
    return await run_agent(
        studio, "Tea", models={"fast": speaking(failing), "deep": speaking(failing)}, tools=tools
    )


@asynchronous
async def test_four_specialists_are_heard_by_the_editor_and_the_text_is_published() -> None:
    run = await studio_run(lambda text: {"number": 4})
    assert run.text.endswith("Published as number 4.")
    assert sorted(event.agent for event in run.events if "completed" in event.fields) == sorted(
        ["analyst", *SPECIALISTS]
    )
    assert not [event for event in run.events if event.agent and event.kind == "content"], (
        "thoughts, for who may see them"
    )
    (edited,) = [request for request in run.model_requests if request.system == EDITOR]
    assert edited.model == "deep"
    for name in ("analyst", *SPECIALISTS):
        assert f"## {name}\n\nThe {name} heard: Tea" in edited.text
    assert "[420, 400, 460]" in edited.text
    (published,) = [call for call in run.calls if call.tool == "office_publish"]
    assert published.arguments["text"].startswith("The editor heard: ")


@asynchronous
async def test_the_studio_says_why_it_was_not_published() -> None:
    def publish(text: str) -> object:
        raise ToolDenied("office_publish", "the user did not allow it: too long")

    run = await studio_run(publish)
    assert run.outcome == "completed"
    assert run.text.endswith("Not published: the user did not allow it: too long.")


@asynchronous
async def test_the_studio_goes_on_without_one_who_fails() -> None:
    run = await studio_run(lambda text: {"number": 1}, failing=SPECIALISTS["critic"])
    assert run.text.endswith("Published as number 1.")
    (edited,) = [request for request in run.model_requests if request.system == EDITOR]
    assert "## critic" not in edited.text
    assert "## wording" in edited.text


# -- the tools ---------------------------------------------------------------------------------------------------


def test_the_settings_name_the_tools_that_there_are() -> None:
    text = (FOLDER / "dispatcher.toml").read_text()
    assert "examples.tools:TOOLS" in text
    assert [getattr(each, "name", getattr(each, "__name__", "")) for each in examples.tools.TOOLS] == [
        "forecast",
        "send_letter",
        "measure",
    ]
