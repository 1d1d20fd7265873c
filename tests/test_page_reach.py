"""The page is there for everybody: by keyboard alone, read aloud, on a narrow screen, in light and in dark."""

from typing import Any

import pytest
from browser import Backstage, Visit, visiting
from dispatcher_process import DispatcherProcess
from page_scene import SERVED, Scene, conversation, ending, prose
from playwright.sync_api import Browser, Page, expect
from southwest.ai.agent.v1 import agent_pb2

DISPATCHER_FLAGS = SERVED
# What people act on: it has to have a name.
ACTED_ON = {
    "button",
    "link",
    "textbox",
    "combobox",
    "switch",
    "checkbox",
    "progressbar",
    "form",
    "dialog",
    "region",
}
LONG = "unbroken" * 60


def everything(scene: Scene) -> Any:
    """A session in which all there is happens, and goes on. Its turn."""
    turn = scene.ask(f"Ask\n{LONG}")
    scene.backstage.do(turn.think(LONG, LONG))
    scene.backstage.do(turn.call(LONG[:200], f'{{"a": "{LONG}"}}', "c-1"))
    scene.backstage.do(turn.result())
    scene.say(
        turn,
        f"{LONG}\n\n```\n{LONG}\n```\n\n- {LONG}\n\n[{LONG}](https://a.example/{LONG})\n\n| {LONG} |\n\n",
    )
    scene.send(turn, agent=LONG[:100], content=agent_pb2.ContentChunk(text=LONG))
    scene.send(turn, progress={"text": LONG, "current": 1, "total": 3})
    artifact = agent_pb2.Artifact(artifact_id="a", name=LONG, mime_type="a/b", data=b"x", is_last=True)
    scene.send(turn, artifact=artifact)
    scene.send(turn, question=agent_pb2.Question(question_id="q-1", text=LONG, options=[LONG, "No"]))
    scene.send(turn, question=agent_pb2.Question(question_id="q-2", text="Why?", response_schema_json="{}"))
    expect(scene.page.get_by_role("form", name="Why?")).to_be_visible()
    for details in scene.page.locator("details").all():
        details.locator("summary").click()
    return turn


def overflowing(page: Page) -> Any:
    """How much wider than the screen the page is."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_nothing_has_to_be_scrolled_sideways(
    dispatcher: DispatcherProcess, backstage: Backstage, browser: Browser, width: int
) -> None:
    with visiting(browser, viewport={"width": width, "height": 740}) as visit:
        scene = Scene(dispatcher, backstage, visit)
        assert overflowing(scene.page) == 0
        turn = everything(scene)
        assert overflowing(scene.page) == 0
        scene.finish(turn)
        assert overflowing(scene.page) == 0


def test_on_a_narrow_screen_the_list_comes_when_it_is_called(
    dispatcher: DispatcherProcess, backstage: Backstage, browser: Browser
) -> None:
    with visiting(browser, viewport={"width": 360, "height": 740}) as visit:
        scene = Scene(dispatcher, backstage, visit)
        page = scene.page
        shelf = page.get_by_role("complementary", name="Sessions")
        opener = page.get_by_role("button", name="Sessions", exact=True)
        expect(shelf).to_be_hidden()
        opener.press("Enter")
        expect(shelf).to_be_visible()
        expect(page.get_by_role("link", name="New conversation")).to_be_focused()
        page.keyboard.press("Escape")
        expect(shelf).to_be_hidden()
        expect(opener).to_be_focused()
        turn = scene.ask("Look")
        opener.click()
        shelf.get_by_role("link", name="New conversation").click()
        expect(shelf).to_be_hidden()
        opener.click()
        shelf.get_by_role("link", name="Look").click()
        expect(shelf).to_be_hidden()
        expect(conversation(page).get_by_text("Look")).to_be_visible()
        scene.finish(turn)


def test_everything_can_be_done_by_keyboard(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    page, keyboard = scene.page, scene.page.keyboard
    page.reload()
    expect(page.get_by_label("Message")).to_be_focused()
    keyboard.type("First")
    keyboard.press("Shift+Enter")
    keyboard.type("Second")
    expect(page.get_by_label("Message")).to_have_value("First\nSecond")
    # The agent that was chosen is kept over the reload.
    keyboard.press("Enter")
    turn = scene.backstage.started(scene.link)
    assert turn.start.messages[0].parts[0].text == "First\nSecond"
    question = agent_pb2.Question(question_id="q-1", text="Which?", options=["This", "That"])
    scene.send(turn, question=question)
    expect(page.get_by_role("button", name="That")).to_be_visible()
    for name in ("Decline", "That"):
        keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name=name)).to_be_focused()
    # Whoever goes by keyboard sees where they are.
    outline = page.get_by_role("button", name="That").evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid"
    keyboard.press("Enter")
    assert scene.backstage.do(turn.heard("answer")).answer.value_json == '"That"'
    # What had the focus is gone; it is where people go on.
    expect(page.get_by_label("Add a message")).to_be_focused()
    keyboard.type("More")
    keyboard.press("Enter")
    assert scene.backstage.do(turn.heard("user_message")).user_message.text == "More"
    # Escape is for leaving things, and ends nothing.
    keyboard.press("Escape")
    for name in ("Thoughts", "Stop"):
        keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_accessible_name(name)
    keyboard.press("Enter")
    scene.backstage.do(turn.stopped())
    expect(ending(page)).to_contain_text("Stopped")
    expect(page.get_by_label("Message")).to_be_focused()


def test_a_link_leads_past_the_list(dispatcher: DispatcherProcess, visit: Visit) -> None:
    page = visit.page
    page.goto(dispatcher.url)
    skip = page.get_by_role("link", name="Skip to the message")
    expect(skip).not_to_be_in_viewport()
    # From the list's first link, backwards.
    page.get_by_role("link", name="New conversation").focus()
    page.keyboard.press("Shift+Tab")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message")).to_be_focused()
    assert page.url.removesuffix("/") == dispatcher.url


def test_all_that_people_act_on_has_a_name(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    turn = everything(scene)
    protocol = visit.context.new_cdp_session(scene.page)
    protocol.send("Accessibility.enable")
    nodes = protocol.send("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in ACTED_ON
    ]
    assert not [role for role, name in found if not name.strip()]
    roles = {role for role, _ in found}
    assert roles >= {"button", "link", "textbox", "switch", "progressbar", "form", "region"}
    levels = [
        int(each) for each in scene.page.locator("h1, h2").evaluate_all("all => all.map(h => h.tagName[1])")
    ]
    assert levels.count(1) == 1
    expect(scene.page.get_by_role("main")).to_have_count(1)
    expect(scene.page.get_by_role("complementary", name="Sessions")).to_have_count(1)
    scene.finish(turn)


def test_whole_paragraphs_are_read_aloud_and_no_tokens(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    log = scene.page.get_by_role("log").locator("p")
    turn = scene.ask()
    for token in ("The ", "first one is ", "**whole", "**.\n", "\nThe ", "second ", "is "):
        scene.say(turn, token)
    expect(prose(scene.page)).to_contain_text("The second is")
    expect(log).to_have_text(["The first one is whole."])
    scene.say(turn, "too.")
    scene.send(turn, question=agent_pb2.Question(question_id="q", text="So?", options=["Yes", "No"]))
    expect(log).to_have_text(
        ["The first one is whole.", "The second is too.", "Question: So? Options: Yes, No."]
    )
    scene.finish(turn)
    expect(log.last).to_have_text("Completed.")
    # Whoever comes later is not read all of it again.
    scene.page.reload()
    expect(ending(scene.page)).to_contain_text("Completed")
    expect(log).to_have_count(0)


def test_light_and_dark_as_the_system_or_as_chosen(dispatcher: DispatcherProcess, browser: Browser) -> None:
    def paper(page: Page) -> str:
        colour: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return colour

    with visiting(browser, color_scheme="dark") as visit:
        page = visit.page
        page.goto(dispatcher.url)
        dark = paper(page)
        page.emulate_media(color_scheme="light")
        light = paper(page)
        assert dark != light
        page.get_by_label("Colours").select_option("Dark")
        assert paper(page) == dark
        page.reload()
        assert paper(page) == dark
        page.get_by_label("Colours").select_option("As the system")
        assert paper(page) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    dispatcher: DispatcherProcess, backstage: Backstage, browser: Browser, scheme: Any
) -> None:
    """WCAG's 4.5 for all text that is seen."""
    with visiting(browser, color_scheme=scheme) as visit:
        scene = Scene(dispatcher, backstage, visit)
        turn = everything(scene)
        faint = scene.page.evaluate(_CONTRAST)
        assert faint == []
        scene.finish(turn)
        assert scene.page.evaluate(_CONTRAST) == []


def test_the_latest_stays_in_sight_until_people_scroll_away(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    page = scene.page
    turn = scene.ask()
    latest = page.get_by_role("button", name="Latest")
    the_end = conversation(page).get_by_text("The very end.", exact=True)
    scene.say(turn, "Line\n\n" * 60)
    scene.say(turn, "The end of it.\n\n")
    expect(conversation(page).get_by_text("The end of it.", exact=True)).to_be_in_viewport()
    expect(latest).to_be_hidden()
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -600)
    expect(latest).to_be_visible()
    scene.say(turn, "More.\n\n" * 9 + "The very end.")
    expect(the_end).to_be_attached()
    expect(the_end).not_to_be_in_viewport()
    latest.click()
    expect(the_end).to_be_in_viewport()
    expect(latest).to_be_hidden()
    scene.finish(turn)


# Every element with text of its own whose colour is too near to what is behind it.
_CONTRAST = """
() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  for (const each of document.querySelectorAll("body *")) {
    const hasText = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const isSeen = each.checkVisibility({visibilityProperty: true});
    if (!hasText || !isSeen || each.closest(".unseen, noscript, :disabled")) continue;
    const [one, other] = [light(rgba(getComputedStyle(each).color)), light(ground(each))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) faint.push(`${each.className || each.tagName}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""
