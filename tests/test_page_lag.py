"""The page of somebody whose network can't keep up: it says what is left out for now, comes back after `slow`, and
loses no content."""

import pytest
from browser import Backstage, Visit
from dispatcher_process import DispatcherProcess, running_dispatcher
from page_scene import SERVED, Scene, conversation, prose
from playwright.sync_api import Page, expect
from scripted_commander import Turn
from tcp_proxy import TcpProxy

QUICKLY = (
    "--viewer-coalesce-after-s",
    "0.02",
    "--viewer-thin-after-s",
    "0.05",
    "--thought-chars-max",
    "1000000000",
)
# What the bar above the conversation has said, each time it was seen: it may be there for a moment alone.
_TOLD = """
globalThis.told = [];
const bar = document.getElementById("connection");
const look = () => bar.hidden || told.push(bar.textContent.trim());
new MutationObserver(look).observe(bar, { attributes: true, childList: true, subtree: true });
"""


async def _bulk(turn: Turn) -> None:
    """Far more than a connection that nobody reads from takes, nearly all of it thoughts."""
    for _ in range(600):
        await turn.think("Counting", f"{turn.sequence:05} " * 1_300)
    await turn.say(f"Word {turn.sequence}")
    await turn.acknowledged(turn.sequence)


def _stalled(backstage: Backstage, proxy: TcpProxy, turn: Turn) -> None:
    backstage.call(proxy.set, "stall", "back")
    backstage.do(_bulk(turn))


def _degraded(dispatcher: DispatcherProcess, stage: str) -> float:
    return dispatcher.scrape().get(f'dispatcher_viewers_degraded_total{{stage="{stage}"}}', 0)


def _told(page: Page, words: str) -> bool:
    found: bool = page.evaluate("(words) => told.some((each) => each.includes(words))", words)
    return found


def _has_come(page: Page, turn: Turn) -> None:
    """All that was said; thoughts part one word from the next."""
    said = page.locator(".prose")
    expect(said.last).to_have_text(turn.text[turn.text.rindex("Word") :])
    assert "".join(said.all_inner_texts()) == turn.text


def _begun(dispatcher: DispatcherProcess, backstage: Backstage, visit: Visit) -> tuple[Scene, TcpProxy, Turn]:
    proxy = backstage.proxy(dispatcher.url.removeprefix("http://"))
    scene = Scene(dispatcher, backstage, visit, url=f"http://{proxy.address}")
    turn = scene.ask()
    scene.say(turn, "Word 0")
    expect(prose(scene.page)).to_have_text("Word 0")
    scene.page.evaluate(_TOLD)
    return scene, proxy, turn


def _ended_whole(scene: Scene, turn: Turn) -> None:
    scene.finish(turn)
    _has_come(scene.page, turn)
    expect(conversation(scene.page).get_by_text("not the whole answer")).to_have_count(0)
    expect(scene.page.locator("#connection")).to_be_hidden()


@pytest.mark.timeout(300)
def test_who_lags_is_told_what_is_left_out_and_gets_all_content(backstage: Backstage, visit: Visit) -> None:
    with running_dispatcher(*SERVED, *QUICKLY, "--viewer-write-s", "600") as dispatcher:
        scene, proxy, turn = _begun(dispatcher, backstage, visit)
        # A machine that is quick enough may not lag in the first place.
        while not _degraded(dispatcher, "thinned"):
            _stalled(backstage, proxy, turn)
            backstage.call(proxy.set, "pass")
            _has_come(scene.page, turn)
        scene.page.wait_for_function("told.some((each) => each.includes('some progress are left out'))")
        expect(scene.page.locator("#connection")).to_be_hidden()
        _ended_whole(scene, turn)


@pytest.mark.timeout(300)
def test_who_takes_nothing_is_let_go_and_comes_back_for_the_rest(backstage: Backstage, visit: Visit) -> None:
    with running_dispatcher(*SERVED, *QUICKLY, "--viewer-write-s", "1") as dispatcher:
        scene, proxy, turn = _begun(dispatcher, backstage, visit)
        # Who reads again too late finds the connection broken, and no word of why.
        while not _told(scene.page, "took nothing for too long"):
            before = _degraded(dispatcher, "slow")
            _stalled(backstage, proxy, turn)
            while _degraded(dispatcher, "slow") == before:
                pass
            backstage.call(proxy.set, "pass")
            _has_come(scene.page, turn)
        _ended_whole(scene, turn)
