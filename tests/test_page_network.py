"""The page when the network, the dispatcher or a commander fails: it comes back by itself, and nothing is lost."""

import contextlib
import hashlib
import re
import signal
from pathlib import Path

from browser import Backstage, Visit
from dispatcher_process import DispatcherProcess, running_dispatcher
from page_scene import SERVED, Scene, conversation, ending, prose
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, expect
from scripted_commander import unique

DISPATCHER_FLAGS = SERVED
TOKEN = "a-token-of-this-test"  # noqa: S105 - of a dispatcher that lives as long as the test
COMMANDERS_TOKEN = "another-token-of-this-test"  # noqa: S105 - the same


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _reconnecting(page: Page) -> None:
    expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_visible()


def test_a_reload_in_the_middle_loses_nothing(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    turn = scene.ask("Where was I?")
    scene.say(turn, "One ")
    expect(prose(scene.page)).to_have_text("One")
    for word in ("two ", "three "):
        scene.page.reload()
        scene.say(turn, word)
        expect(prose(scene.page)).to_have_text(turn.text.strip())
    # What was asked is in no event; this tab has kept it.
    expect(conversation(scene.page).get_by_text("Where was I?")).to_have_count(1)
    scene.finish(turn)
    scene.page.reload()
    expect(ending(scene.page)).to_contain_text("Completed")
    expect(prose(scene.page)).to_have_text("One two three")
    # And by its address alone, as another would be given it.
    other = scene.page.context.new_page()
    other.goto(scene.page.url)
    expect(prose(other)).to_have_text("One two three")


def test_the_network_goes_and_comes_back(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    proxy = backstage.proxy(_address(dispatcher.url))
    scene = Scene(dispatcher, backstage, visit, url=f"http://{proxy.address}")
    turn = scene.ask()
    scene.say(turn, "Before, ")
    expect(prose(scene.page)).to_have_text("Before,")
    visit.context.set_offline(True)
    backstage.call(proxy.cut)
    _reconnecting(scene.page)
    scene.say(turn, "meanwhile, ")
    visit.context.set_offline(False)
    expect(prose(scene.page)).to_have_text("Before, meanwhile,")
    expect(scene.page.get_by_role("status").filter(has_text="Reconnecting")).to_have_count(0)
    scene.say(turn, "after.")
    scene.finish(turn)
    expect(prose(scene.page)).to_have_text("Before, meanwhile, after.")


def test_connections_that_are_cut_again_and_again_lose_nothing(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    proxy = backstage.proxy(_address(dispatcher.url))
    backstage.call(proxy.set, "split")
    scene = Scene(dispatcher, backstage, visit, url=f"http://{proxy.address}")
    turn = scene.ask()
    for number in range(40):
        if number % 8 == 3:
            backstage.call(proxy.cut)
        scene.say(turn, f"{number} ½ ")
        # Behind a cut this comes by another connection, with what was missed.
        if number % 8 == 5:
            expect(prose(scene.page)).to_have_text(turn.text.strip())
    scene.finish(turn)
    expect(prose(scene.page)).to_have_text(turn.text.strip())


def test_trying_now_needs_no_waiting(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    proxy = backstage.proxy(_address(dispatcher.url))
    scene = Scene(dispatcher, backstage, visit, url=f"http://{proxy.address}")
    turn = scene.ask()
    scene.say(turn, "Here")
    expect(prose(scene.page)).to_have_text("Here")
    backstage.call(proxy.close_port)
    _reconnecting(scene.page)
    again = scene.page.get_by_role("button", name="Try now")
    # It waits longer each time, so it does not come back by itself in the moment before the click.
    for _ in range(6):
        again.click()
    backstage.do(proxy.open_port())
    with contextlib.suppress(PlaywrightError):
        again.click(timeout=5_000)
    scene.say(turn, " again")
    expect(prose(scene.page)).to_have_text("Here again")
    scene.finish(turn)


def test_an_ask_whose_answer_was_lost_opens_no_second_session(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    proxy = backstage.proxy(_address(dispatcher.url))
    scene = Scene(dispatcher, backstage, visit, url=f"http://{proxy.address}")
    backstage.call(proxy.set, "blackhole", "back")
    turn = scene.ask("Once")
    backstage.call(proxy.close_port)
    alert = scene.page.locator("#composer-trouble")
    expect(alert).to_have_text("The dispatcher can't be reached.")
    field = scene.page.get_by_label("Message")
    expect(field).to_have_value("Once")
    backstage.call(proxy.set, "pass")
    backstage.do(proxy.open_port())
    field.press("Enter")
    expect(scene.page).to_have_url(re.compile(re.escape(turn.session_id)))
    scene.say(turn, "Only once.")
    expect(prose(scene.page)).to_have_text("Only once.")
    assert scene.link.started_nothing()
    scene.finish(turn)


def test_a_lost_worker_takes_back_what_it_said(
    dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit
) -> None:
    scene = Scene(dispatcher, backstage, visit)
    turn = scene.ask("Is it so?")
    scene.say(turn, "No, because")
    expect(prose(scene.page)).to_have_text("No, because")
    scene.page.get_by_label("Add a message").fill("Sure?")
    scene.page.keyboard.press("Enter")
    expect(conversation(scene.page).get_by_text("Sure?")).to_be_visible()
    backstage.do(scene.link.leave())
    second = backstage.link(dispatcher.address, scene.agent)
    anew = backstage.started(second)
    assert anew.attempt == 2
    expect(conversation(scene.page).get_by_text("The worker was lost")).to_be_visible()
    expect(conversation(scene.page)).not_to_contain_text("No, because")
    scene.say(anew, "Yes.")
    scene.finish(anew)
    for text in ("Is it so?", "Sure?", "Yes."):
        expect(conversation(scene.page).get_by_text(text, exact=True)).to_have_count(1)
    expect(conversation(scene.page)).not_to_contain_text("not the whole answer")


def test_a_dispatcher_that_restarts_is_waited_for(tmp_path: Path, backstage: Backstage, visit: Visit) -> None:
    quick = ("--heartbeat-interval-s", "1", "--detach-grace-s", "3.1")
    kept = (*quick, "--journal", f"sqlite:{tmp_path / 'journal'}", "--http-address")
    with running_dispatcher(*kept, "127.0.0.1:0") as dispatcher:
        address = _address(dispatcher.url)
        scene = Scene(dispatcher, backstage, visit)
        turn = scene.ask("Still there?")
        scene.say(turn, "Half")
        expect(prose(scene.page)).to_have_text("Half")
        dispatcher.signal(signal.SIGTERM)
        expect(scene.page.get_by_role("status").filter(has_text="The dispatcher restarts")).to_be_visible()
        assert dispatcher.wait() == 0
    with running_dispatcher(*kept, address) as dispatcher:
        link = backstage.link(dispatcher.address, scene.agent)
        anew = backstage.started(link)
        assert anew.session_id == turn.session_id
        scene.say(anew, "All of it.")
        expect(conversation(scene.page).get_by_text("All of it.")).to_be_visible()
        scene.finish(anew)
        expect(conversation(scene.page)).not_to_contain_text("Half")


def test_a_session_that_a_restart_has_forgotten_is_said_to_be_gone(
    backstage: Backstage, visit: Visit
) -> None:
    with running_dispatcher("--http-address", "127.0.0.1:0") as dispatcher:
        address = _address(dispatcher.url)
        scene = Scene(dispatcher, backstage, visit)
        turn = scene.ask()
        scene.say(turn, "Half")
        expect(prose(scene.page)).to_have_text("Half")
        dispatcher.signal(signal.SIGKILL)
        dispatcher.wait()
        _reconnecting(scene.page)
    with running_dispatcher("--http-address", address):
        told = scene.page.get_by_role("status").filter(has_text="no longer keeps this session")
        expect(told).to_be_visible()
        # It is not asked for again and again: the list of sessions is, and only that.
        asked: list[str] = []
        scene.page.on("request", lambda request: asked.append(request.url))
        for _ in range(2):
            with scene.page.expect_response(re.compile(r"/v1/sessions\?")):
                pass
        # Once more it may be: for what there is behind the gap.
        assert len([url for url in asked if url.partition("?")[0].endswith("/events")]) <= 1
        # What was seen stays to be read.
        expect(prose(scene.page)).to_have_text("Half")
        expect(scene.page.get_by_role("button", name="Stop")).to_be_hidden()
        scene.page.reload()
        expect(scene.page.get_by_text("This session is no longer kept")).to_be_visible()


def _entry(role: str, token: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[tokens]]\nname = "{role}"\nrole = "{role}"\nsha256 = "{digest}"\n'


def test_a_token_is_asked_for_and_kept_in_this_tab_alone(
    tmp_path: Path, backstage: Backstage, visit: Visit
) -> None:
    page, tokens, agent = visit.page, tmp_path / "tokens.toml", unique("agent")
    tokens.write_text(_entry("application", TOKEN) + _entry("commander", COMMANDERS_TOKEN))
    with running_dispatcher(*SERVED, "--tokens-file", str(tokens)) as dispatcher:
        link = backstage.link(dispatcher.address, agent, token=COMMANDERS_TOKEN)
        page.goto(dispatcher.url)
        dialog = page.get_by_role("dialog", name="A token is needed")
        expect(dialog).to_be_visible()
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        assert field.get_attribute("type") == "password"
        # Who doesn't want to is not asked again and again, but when they ask something themselves.
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        page.get_by_label("Message").fill("Hi")
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        field.fill("not it")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("without spaces")
        field.fill("not-it")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This token was not accepted.")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        # What was asked goes on where it stood.
        turn = backstage.started(link)
        backstage.do(turn.say("Come in."))
        expect(prose(page)).to_have_text("Come in.")
        assert TOKEN not in page.url
        assert page.evaluate("JSON.stringify([{...localStorage}, document.cookie])").count(TOKEN) == 0
        page.reload()
        expect(prose(page)).to_have_text("Come in.")
        expect(dialog).to_be_hidden()
        assert not [line for line in dispatcher.log if TOKEN in line]
        backstage.do(turn.finish())
        expect(ending(page)).to_contain_text("Completed")
        # Another tab has not been given it.
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.get_by_role("dialog")).to_be_visible()
        page.goto("about:blank")
        other.goto("about:blank")
