"""The page in a real Chromium: what an agent does is seen, and people can ask, answer, steer and stop."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from browser import Backstage, Visit, visiting
from dispatcher_process import DispatcherProcess
from page_scene import SERVED, Scene, conversation, ending, prose
from playwright.sync_api import Browser, Locator, expect
from scripted_commander import unique
from southwest.ai.agent.v1 import agent_pb2

DISPATCHER_FLAGS = SERVED

# Whatever of this were taken for markup would be seen by what it does.
MARKUP = '<img src=x onerror="pwned=1"><script>pwned=1</script><b onclick=pwned=1>[x](javascript:pwned=1)</b>'


@pytest.fixture
def scene(dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit) -> Scene:
    return Scene(dispatcher, backstage, visit)


def test_what_an_agent_says_is_seen_as_it_comes(scene: Scene) -> None:
    turn = scene.ask("How far?\nAnd why?")
    assert turn.start.messages[0].parts[0].text == "How far?\nAnd why?"
    expect(conversation(scene.page).get_by_text("And why?")).to_be_visible()
    expect(scene.page.get_by_text("Works", exact=True)).to_be_visible()
    scene.say(turn, "It is **far")
    expect(prose(scene.page)).to_have_text("It is **far")
    scene.say(turn, "**, and `2 * 3`.\n\n")
    expect(prose(scene.page).get_by_role("strong")).to_have_text("far")
    expect(prose(scene.page).locator("code")).to_have_text("2 * 3")
    scene.finish(turn)


def test_markdown_becomes_elements(scene: Scene) -> None:
    turn = scene.ask()
    text = (
        "## A heading\n\nOne *two* __three__ \\*four\\* snake_case_name 2*3*4\n"
        "- a\n  - b\n- c\n\n3. d\n4. e\n\n> said\n\n"
        "[name](https://a.example/?q=1) and `un closed\n\n"
        "```python\nif a < b:\n    c()\n```\n\n~~~\nopen <i>\n"
    )
    # Cut anywhere, it comes to the same.
    for at in range(0, len(text), 7):
        scene.say(turn, text[at : at + 7])
    scene.finish(turn)
    box = prose(scene.page)
    expect(box.get_by_role("heading", name="A heading", level=4)).to_be_visible()
    assert box.locator("em").all_inner_texts() == ["two", "3"]
    assert box.locator("strong").all_inner_texts() == ["three"]
    expect(box.locator("p").first).to_contain_text("*four* snake_case_name 2")
    assert box.locator("ul").first.locator(":scope > li").count() == 2
    expect(box.locator("ul ul li")).to_have_text("b")
    expect(box.locator("ol")).to_have_attribute("start", "3")
    expect(box.locator("blockquote")).to_have_text("said")
    expect(box.get_by_text("name (https://a.example/?q=1) and `un closed")).to_be_visible()
    assert box.locator("a").count() == 0
    expect(box.get_by_role("region", name="Code, python")).to_have_text("if a < b:\n    c()")
    expect(box.get_by_role("region", name="Code", exact=True)).to_have_text("open <i>")


def test_thoughts_are_folded_away_and_open_on_demand(scene: Scene) -> None:
    turn = scene.ask()
    for word in ("First ", "this."):
        scene.backstage.do(turn.think("Planning", word))
    scene.backstage.do(turn.think("Doubting", "Or that?"))
    thoughts = scene.page.locator("details.thought")
    expect(thoughts).to_have_count(2)
    expect(conversation(scene.page).get_by_text("First this.")).to_be_hidden()
    thoughts.first.locator("summary").press("Enter")
    expect(conversation(scene.page).get_by_text("First this.")).to_be_visible()
    expect(conversation(scene.page).get_by_text("Or that?")).to_be_hidden()
    # Switched off, they are not even asked for.
    scene.page.get_by_role("switch", name="Thoughts").click()
    expect(thoughts).to_have_count(0)
    scene.say(turn, "Done.")
    expect(prose(scene.page)).to_have_text("Done.")
    scene.page.reload()
    expect(prose(scene.page)).to_have_text("Done.")
    expect(thoughts).to_have_count(0)
    scene.page.get_by_role("switch", name="Thoughts").click()
    expect(thoughts).to_have_count(2)


def test_a_call_has_its_arguments_and_what_came_of_it(scene: Scene) -> None:
    turn = scene.ask()
    scene.backstage.do(turn.call("nothing", '{"where": "here", "n": 12345678901234567890}', "c-1"))
    scene.backstage.do(turn.result())
    call = scene.page.locator("details.call")
    expect(call).to_contain_text("Not found")
    call.locator("summary").click()
    sheet = scene.page.get_by_role("region", name="What nothing was asked with")
    # Not as JavaScript would have the number.
    expect(sheet).to_contain_text("12345678901234567890")
    expect(call).to_contain_text('no tool is named "nothing"')
    scene.finish(turn)


def test_progress_is_the_latest_and_sub_agents_stand_apart(scene: Scene) -> None:
    turn = scene.ask()
    event = agent_pb2.AgentEvent
    for name in ("insight", "insight/deep", "doubt"):
        scene.send(
            turn,
            agent=name,
            agent_event=event(started=agent_pb2.AgentStarted(description=f"Begins as {name}")),
        )
        scene.say(turn, "")
        scene.send(turn, agent=name, content=agent_pb2.ContentChunk(text=f"from {name}"))
    scene.send(turn, progress={"text": "Reading", "current": 1, "total": 4})
    scene.send(turn, progress={"text": "Writing", "percent": 62.5})
    insight = scene.page.get_by_role("region", name="Sub-agent insight")
    expect(insight).to_contain_text("from insight")
    expect(insight.get_by_role("region", name="Sub-agent deep")).to_contain_text("from insight/deep")
    doubt = scene.page.get_by_role("region", name="Sub-agent doubt")
    expect(doubt).not_to_contain_text("from insight")
    bar = scene.page.get_by_role("progressbar", name="Writing")
    expect(bar).to_have_attribute("value", "0.625")
    expect(conversation(scene.page).get_by_text("Reading")).to_have_count(0)
    failed = agent_pb2.AgentFailed(error=agent_pb2.ErrorSignal(code="x", message="It got lost."))
    scene.send(turn, agent="doubt", agent_event=event(failed=failed))
    expect(doubt).to_contain_text("It got lost.")
    scene.send(
        turn, agent="insight", agent_event=event(completed=agent_pb2.AgentCompleted(summary="It is so."))
    )
    expect(insight).to_contain_text("It is so.")
    scene.finish(turn)
    expect(bar).to_be_hidden()


def test_an_artifact_is_a_download_of_all_its_bytes(scene: Scene) -> None:
    turn = scene.ask()
    data = bytes(range(256)) * 300
    halves = (data[:40_000], data[40_000:])
    for number, half in enumerate(halves):
        artifact = agent_pb2.Artifact(
            artifact_id="a-1",
            name="all.html",
            mime_type="text/html",
            data=half,
            is_last=number == 1,
        )
        scene.send(turn, artifact=artifact)
    link = scene.page.get_by_role("link", name="Download all.html")
    with scene.page.expect_download() as coming:
        link.click()
    assert coming.value.suggested_filename == "all.html"
    assert coming.value.path().read_bytes() == data
    scene.finish(turn)


def _question(question_id: str, **fields: Any) -> agent_pb2.Question:
    return agent_pb2.Question(question_id=question_id, **fields)


def test_questions_are_answered_by_buttons_and_by_fields(scene: Scene) -> None:
    turn = scene.ask()
    page = scene.page

    def asked(name: str, **fields: Any) -> Locator:
        scene.send(turn, question=_question(name, text=f"{name}?", **fields))
        expect(page.get_by_text("Waits for your answer")).to_be_visible()
        return page.get_by_role("form", name=f"{name}?")

    def heard(form: Locator, told: str) -> str:
        expect(form).to_have_count(1)
        expect(form).to_contain_text(told)
        expect(form.get_by_role("button")).to_have_count(0)
        return scene.backstage.do(turn.heard("answer")).answer.value_json

    form = asked("one", options=["true", "2"])
    form.get_by_role("button", name="true").click()
    assert heard(form, "Answered: true") == '"true"'

    form = asked("words")
    form.get_by_role("textbox").fill("two\nlines")
    form.get_by_role("button", name="Answer").click()
    assert heard(form, "Answered: two") == '"two\\nlines"'

    form = asked("number", response_schema_json='{"type": "integer", "minimum": 3}')
    form.get_by_role("textbox").fill("three")
    form.get_by_role("textbox").press("Enter")
    expect(form.get_by_role("alert")).to_have_text("A number is wanted.")
    form.get_by_role("textbox").fill("2")
    form.get_by_role("textbox").press("Enter")
    # What the dispatcher has against it; and it can be mended.
    expect(form.get_by_role("alert")).to_have_text("2 is wrong; at least 3 is needed.")
    form.get_by_role("textbox").fill("3")
    form.get_by_role("textbox").press("Enter")
    assert heard(form, "Answered: 3") == "3"

    form = asked("so", response_schema_json='{"type": "boolean"}')
    form.get_by_role("button", name="No").click()
    assert heard(form, "Answered: No") == "false"

    form = asked("object", response_schema_json='{"type": "object", "required": ["a"]}')
    form.get_by_text("What it must fit").click()
    expect(form.get_by_role("region", name="The answer's JSON Schema")).to_contain_text('"required"')
    form.get_by_role("textbox").fill("{a")
    form.get_by_role("button", name="Answer").click()
    expect(form.get_by_role("alert")).to_have_text("This is no JSON.")
    form.get_by_role("textbox").fill('{"a": null}')
    form.get_by_role("button", name="Answer").click()
    assert heard(form, 'Answered: {"a":null}') == '{"a": null}'

    form = asked("no")
    form.get_by_role("button", name="Decline").click()
    assert heard(form, "No answer: declined") == ""
    scene.finish(turn)


def test_a_question_that_nobody_answers_is_closed_with_the_session(scene: Scene) -> None:
    turn = scene.ask()
    scene.send(turn, question=_question("q", text="Well?", options=["Yes"]))
    form = scene.page.get_by_role("form", name="Well?")
    expect(form.get_by_role("button", name="Yes")).to_be_visible()
    scene.finish(turn)
    expect(form.get_by_role("button")).to_have_count(0)
    expect(form).to_contain_text("Not answered")


def test_stop_in_mid_sentence(scene: Scene) -> None:
    turn = scene.ask()
    scene.say(turn, "This is the beginning of a")
    expect(prose(scene.page)).to_have_text("This is the beginning of a")
    scene.page.get_by_role("button", name="Stop").click()
    stop = scene.backstage.do(turn.stopped())
    expect(ending(scene.page)).to_contain_text("Stopped")
    expect(ending(scene.page)).to_contain_text("You stopped it.")
    scene.say(turn, " long one")
    scene.backstage.do(turn.acknowledge_stop(stop))
    expect(scene.page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(prose(scene.page)).to_have_text("This is the beginning of a")
    # To others it was somebody; to who did it, it was them, after a reload too.
    other = scene.page.context.new_page()
    other.goto(scene.page.url)
    expect(ending(other)).to_contain_text("Somebody stopped it; ask again if that was not meant.")
    other.close()
    scene.page.reload()
    expect(ending(scene.page)).to_contain_text("You stopped it.")
    expect(ending(scene.page)).not_to_contain_text("Somebody")
    # It can be asked for once more, as it was.
    scene.page.get_by_role("button", name="Ask again").click()
    again = scene.backstage.started(scene.link)
    assert again.session_id != turn.session_id
    assert again.start.messages[0].parts[0].text == "Hi"
    scene.finish(again)


def test_a_message_is_added_and_what_was_not_read_is_given_back(scene: Scene) -> None:
    turn = scene.ask()
    page = scene.page
    for text in ("Shorter!", "And in rhyme."):
        page.get_by_label("Add a message").fill(text)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(conversation(page).get_by_text(text)).to_be_visible()
        expect(page.get_by_label("Add a message")).to_have_value("")
    first = scene.backstage.do(turn.heard("user_message"))
    assert first.user_message.text == "Shorter!"
    scene.send(turn, content=agent_pb2.ContentChunk(text="Well."), messages_read=first.sequence)
    turn.text = "Well."
    scene.finish(turn)
    expect(page.get_by_text("The agent has not read this.")).to_have_count(1)
    page.get_by_label("Message").fill("please")
    page.get_by_role("button", name="Take it back").click()
    expect(page.get_by_label("Message")).to_have_value("And in rhyme.\n\nplease")


def test_the_next_request_has_the_conversation_with_it(scene: Scene) -> None:
    turn = scene.ask("One?")
    scene.say(turn, "First.")
    scene.finish(turn)
    scene.page.get_by_label("Message").fill("Two?")
    scene.page.get_by_role("button", name="Send").click()
    second = scene.backstage.started(scene.link)
    told = [(message.role, message.parts[0].text) for message in second.start.messages]
    user, assistant = agent_pb2.ROLE_USER, agent_pb2.ROLE_ASSISTANT
    assert told == [(user, "One?"), (assistant, "First."), (user, "Two?")]
    for text in ("One?", "First.", "Two?"):
        expect(conversation(scene.page).get_by_text(text)).to_be_visible()
    scene.finish(second)
    # A new conversation begins with nothing.
    scene.page.get_by_role("link", name="New conversation").click()
    expect(conversation(scene.page)).to_be_hidden()
    third = scene.ask("Three?")
    assert len(third.start.messages) == 1
    scene.finish(third)


def test_markup_in_whatever_comes_is_text_and_never_runs(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit, agent=unique("<b>agent</b>"))
    turn = scene.ask(MARKUP)
    scene.say(turn, f"{MARKUP}\n\n```{MARKUP}\n{MARKUP}\n```\n\n- {MARKUP}\n\n# {MARKUP}\n\n`{MARKUP}`\n\n")
    scene.backstage.do(turn.think(MARKUP, MARKUP))
    scene.backstage.do(turn.call(MARKUP, f'{{"a": {MARKUP!r}}}', "c-1"))
    scene.backstage.do(turn.result())
    scene.send(turn, progress={"text": MARKUP, "percent": 1})
    scene.send(turn, question=_question("q", text=MARKUP, options=[MARKUP]))
    scene.send(turn, agent="<script>pwned=1</script>", content=agent_pb2.ContentChunk(text=MARKUP))
    artifact = agent_pb2.Artifact(artifact_id="a", name=MARKUP, mime_type=MARKUP, data=b"x", is_last=True)
    scene.send(turn, artifact=artifact)
    expect(scene.page.get_by_role("button", name=MARKUP, exact=True)).to_be_visible()
    error = agent_pb2.ErrorSignal(
        code=MARKUP,
        message=MARKUP,
        origin=agent_pb2.ERROR_ORIGIN_COMMANDER,
        scope=agent_pb2.ERROR_SCOPE_SESSION,
    )
    scene.send(turn, error=error)
    expect(ending(scene.page)).to_contain_text(MARKUP)
    for details in scene.page.locator("details").all():
        details.locator("summary").click()
    # The words asked, content five times, a thought, a call, a question, a sub-agent's words, the ending.
    assert conversation(scene.page).inner_text().count("<script>pwned=1</script>") >= 10
    assert conversation(scene.page).locator("img, script, b").count() == 0
    hrefs = [link.get_attribute("href") or "" for link in scene.page.get_by_role("link").all()]
    assert not [href for href in hrefs if not re.match(r"#|blob:", href)]
    assert scene.page.evaluate("typeof pwned") == "undefined"


def test_an_ending_is_told_with_what_can_be_done(scene: Scene) -> None:
    turn = scene.ask()
    error = agent_pb2.ErrorSignal(
        code="rate_limited",
        message="Too many requests.",
        origin=agent_pb2.ERROR_ORIGIN_LLM,
        scope=agent_pb2.ERROR_SCOPE_SESSION,
        retryable=True,
    )
    scene.send(turn, error=error)
    told = ending(scene.page)
    expect(told).to_contain_text("Model failed – Too many requests.")
    expect(told).to_contain_text("its error says whether to try again")
    told.get_by_role("button", name="Ask again").click()
    again = scene.backstage.started(scene.link)
    scene.finish(again)
    expect(scene.page.get_by_role("button", name="Ask again")).to_have_count(0)


def test_what_is_wrong_with_a_request_is_said_and_nothing_typed_is_lost(
    dispatcher: DispatcherProcess, visit: Visit
) -> None:
    visit.page.goto(dispatcher.url)
    field = visit.page.get_by_label("Message")
    field.fill("x" * 2_000_000)
    visit.page.get_by_role("button", name="Send").click()
    expect(visit.page.locator("#composer-trouble")).not_to_be_empty()
    assert len(field.input_value()) == 2_000_000


def test_sessions_come_and_go_in_the_list_by_themselves(
    scene: Scene, dispatcher: DispatcherProcess, browser: Browser
) -> None:
    with visiting(browser) as other:
        other.page.goto(dispatcher.url)
        turn = scene.ask("Where is it?")
        link = other.page.locator(f'#running a[href="#/{turn.session_id}"]')
        expect(link).to_be_visible()
        # Its own words are not another's to see: there the agent's name stands for it.
        expect(link).not_to_contain_text("Where is it?")
        expect(scene.page.locator("#running [aria-current=page]")).to_contain_text("Where is it?")
        scene.say(turn, "Here.")
        link.click()
        expect(prose(other.page)).to_have_text("Here.")
        scene.finish(turn)
        over = other.page.locator(f'#recent a[href="#/{turn.session_id}"]')
        expect(over).to_contain_text(re.compile(r"completed · (just now|\d+ min ago)"))
        expect(over).to_contain_text(scene.agent)
        expect(ending(other.page)).to_contain_text("Completed")


# Rendered as if it came whole; how long it took, milliseconds: the least of several, as other things go on too.
RENDERED = """async (text) => {
  const { Prose } = await import("/page/markdown.js");
  let least = Infinity;
  for (let time = 0; time < 3; time += 1) {
    const prose = new Prose();
    prose.append(text);
    const begun = performance.now();
    prose.finish();
    least = Math.min(least, performance.now() - begun);
  }
  return least;
}"""
HOSTILE: dict[str, Callable[[int], str]] = {
    "padding of code": lambda n: "` " + "a" * n + "`",
    "spaces in a heading": lambda n: "# a" + " " * n + "b",
    "spaces before a line's end in a heading": lambda n: "# " + " " * n + "\r a",
    "spaces before a line's end in an item": lambda n: "- " + " " * n + "\u2028 a",
    "signs and spaces of a rule": lambda n: "- " * (n // 2) + " " * n + "b",
    "openings of links": lambda n: "[]" * (n // 2) + "](b)",
    "openings of links that end far away": lambda n: "[a](" * (n // 4) + "b" * n,
    "openings of emphasis": lambda n: "*a **b _c " * (n // 10),
    "pairs inside of emphasis": lambda n: "*a" + " **b" * (n // 4),
    "backticks": lambda n: "`` ` " * (n // 5) + "`" * n,
    "items": lambda n: "".join(" " * (each % 30) + "- a\n" for each in range(n // 20)),
    "quotes": lambda n: "> *a\n" * (n // 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_is_more_work_than_it_is_long(name: str, visit: Visit, dispatcher: DispatcherProcess) -> None:
    visit.page.goto(dispatcher.url)
    length = 40_000
    once, eight_times = (visit.page.evaluate(RENDERED, HOSTILE[name](n)) for n in (length, 8 * length))
    # What is quadratic takes 64 times as long.
    assert eight_times < 24 * max(once, 10.0), (once, eight_times)


def test_very_many_pieces_are_shown(visit: Visit, dispatcher: DispatcherProcess) -> None:
    visit.page.goto(dispatcher.url)
    for text in ("*a* " * 150_000, "a\n\n" * 150_000):
        visit.page.evaluate(RENDERED, text)


def test_the_closing_signs_of_a_heading_are_left_out(visit: Visit, dispatcher: DispatcherProcess) -> None:
    visit.page.goto(dispatcher.url)
    shown = """async (text) => {
      const { Prose } = await import("/page/markdown.js");
      const prose = new Prose();
      prose.append(text);
      prose.finish();
      return prose.box.firstChild.textContent;
    }"""
    for text, told in {
        "# a ##": "a",
        "# a ## ": "a",
        "# a   #": "a",
        "# a#": "a#",
        "# a # b": "a # b",
        "# ##": "##",
        "` a `": "a",
        "`  a`": "  a",
        "`   `": "   ",
    }.items():
        assert visit.page.evaluate(shown, text) == told, text
