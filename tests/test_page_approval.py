"""A call that somebody has to allow, on the page in a real Chromium."""

import json
from collections.abc import Iterator

import pytest
from browser import Backstage, Visit
from dispatcher_process import DispatcherProcess, running_dispatcher
from page_scene import SERVED, Scene
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    config = tmp_path_factory.mktemp("asking") / "dispatcher.toml"
    config.write_text("[tool.calculate]\nask = true\n")
    with running_dispatcher(*SERVED, "--config", str(config), "--tools", "demo") as dispatcher:
        yield dispatcher


def test_a_call_is_allowed_changed_or_denied(
    asking: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(asking, backstage, visit)
    turn = scene.ask()

    def called(number: int) -> None:
        backstage.do(turn.call("calculate", f'{{"expression": "{number} * 7"}}', f"c-{number}"))

    def came() -> object:
        return json.loads(backstage.do(turn.result()).result_json)["result"]

    called(6)
    form = scene.page.get_by_role("form", name='May calculate run with {"expression": "6 * 7"}?')
    form.get_by_role("button", name="Approve", exact=True).click()
    expect(form).to_contain_text("Answered: approve")
    assert came() == 42

    called(7)
    form = scene.page.get_by_role("form", name="7 * 7")
    form.get_by_text("Change the arguments").click()
    field = form.get_by_role("textbox", name="Arguments, as JSON")
    expect(field).to_have_value('{\n  "expression": "7 * 7"\n}')
    field.fill("{")
    form.get_by_role("button", name="Approve with these").click()
    expect(form.get_by_role("alert")).to_have_text("This is no JSON.")
    field.fill('{"expression": 7}')
    form.get_by_role("button", name="Approve with these").click()
    expect(form.get_by_role("alert")).to_contain_text("expression")
    field.fill('{"expression": "2 + 2"}')
    form.get_by_role("button", name="Approve with these").click()
    expect(form).to_contain_text('Answered: {"approve":{"expression":"2 + 2"}}')
    assert came() == 4

    called(8)
    form = scene.page.get_by_role("form", name="8 * 7")
    form.get_by_role("button", name="Deny").click()
    expect(form).to_contain_text("Answered: deny")
    assert backstage.do(turn.result()).error.message == "the user did not allow it"
    scene.finish(turn)
