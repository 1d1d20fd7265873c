"""A page and the agent that it has asked, and where on it to look."""

from typing import Any

from browser import Backstage, Visit
from dispatcher_process import DispatcherProcess
from playwright.sync_api import Locator, Page, expect
from scripted_commander import Link, Turn, unique

# Beside a browser that starts a machine may be too busy for heartbeats, and nothing here is about them.
SERVED = ("--http-address", "127.0.0.1:0", "--heartbeat-interval-s", "20", "--detach-grace-s", "120")


class Scene:
    """A page that has asked an agent, and the agent's side of it."""

    def __init__(
        self,
        dispatcher: DispatcherProcess,
        backstage: Backstage,
        visit: Visit,
        *,
        url: str = "",
        agent: str = "",
    ) -> None:
        self.backstage = backstage
        self.page = visit.page
        self.agent = agent or unique("agent")
        self.link: Link = backstage.link(dispatcher.address, self.agent)
        self.page.goto(url or dispatcher.url)
        self.page.get_by_label("Agent").select_option(self.agent)

    def ask(self, text: str = "Hi") -> Turn:
        self.page.get_by_label("Message").fill(text)
        self.page.keyboard.press("Enter")
        return self.backstage.started(self.link)

    def say(self, turn: Turn, text: str) -> None:
        self.backstage.do(turn.say(text))

    def send(self, turn: Turn, **fields: Any) -> None:
        self.backstage.do(turn.send(**fields))

    def finish(self, turn: Turn) -> None:
        self.backstage.do(turn.finish())
        expect(ending(self.page)).to_contain_text("Completed")


def conversation(page: Page) -> Locator:
    return page.get_by_role("region", name="Conversation")


def prose(page: Page) -> Locator:
    return page.locator(".prose").first


def ending(page: Page) -> Locator:
    return page.locator(".ending")
