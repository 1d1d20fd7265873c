"""Where a session stands, as the page shows it: by marks in the list, in the greeting, and where there is none."""

import pytest
from browser import Backstage, Visit
from dispatcher_process import DispatcherProcess
from page_scene import SERVED, Scene, ending
from playwright.sync_api import expect
from southwest.ai.agent.v1 import agent_pb2

DISPATCHER_FLAGS = SERVED
# The outline of the mark before a row of the list.
_SHAPE = """
(link) => {
  const { borderRadius, borderWidth, clipPath, transform } = getComputedStyle(link, "::before");
  return [borderRadius, borderWidth, clipPath, transform].join();
}
"""


@pytest.fixture
def scene(dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit) -> Scene:
    return Scene(dispatcher, backstage, visit)


def test_how_a_session_stands_is_told_by_a_shape_and_not_by_colour_alone(scene: Scene) -> None:
    page = scene.page
    turns = {"failed": scene.ask("One")}
    error = agent_pb2.ErrorSignal(
        code="rate_limited",
        message="Too many requests.",
        origin=agent_pb2.ERROR_ORIGIN_LLM,
        scope=agent_pb2.ERROR_SCOPE_SESSION,
    )
    scene.send(turns["failed"], error=error)
    expect(ending(page)).to_contain_text("Model failed")
    for state in ("done", "left", "running"):
        page.get_by_role("link", name="New conversation").click()
        turns[state] = scene.ask(state)
        if state == "done":
            scene.finish(turns[state])
        elif state == "left":
            page.get_by_role("button", name="Stop").click()
            scene.backstage.do(turns[state].acknowledge_stop(scene.backstage.do(turns[state].stopped())))
            expect(ending(page)).to_contain_text("Stopped")
    shapes = set()
    for state, turn in turns.items():
        link = page.locator(f'.lists a[href="#/{turn.session_id}"]')
        expect(link).to_have_attribute("data-state", state)
        shapes.add(link.evaluate(_SHAPE))
    assert len(shapes) == len(turns)
    scene.finish(turns["running"])


def test_an_address_that_leads_nowhere_offers_to_begin_anew(scene: Scene) -> None:
    page = scene.page
    page.goto(f"{page.url.partition('#')[0]}#/s-nope")
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
    expect(page.get_by_label("Message")).to_have_attribute("placeholder", "Ask an agent …")
    expect(page.locator("#connection")).to_be_hidden()
    page.get_by_role("main").get_by_role("link", name="New conversation").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    # Who asks there begins anew as well.
    page.goto(f"{page.url.partition('#')[0]}#/s-nope")
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
    turn = scene.ask("Anew")
    assert [each.parts[0].text for each in turn.start.messages] == ["Anew"]
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_hidden()
    scene.finish(turn)


def test_the_greeting_tells_who_is_asked_and_nothing_of_slots(scene: Scene) -> None:
    greeting = scene.page.locator("#hello-agent")
    expect(greeting).to_contain_text(scene.agent)
    expect(greeting).not_to_contain_text("slot")
