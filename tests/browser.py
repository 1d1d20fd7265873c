"""A real Chromium that looks at the page, and a scripted commander for tests that are not async themselves."""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Self, TypeVar

import pytest
from asynchronous import PATIENCE_S
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)
from scripted_commander import Link, Turn, linked
from tcp_proxy import TcpProxy, tcp_proxy

T = TypeVar("T")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# What a page that is left in the midst of something may say: it is the network's trouble, not the page's.
_OF_THE_NETWORK = "Failed to load resource"

expect.set_options(timeout=PATIENCE_S * 1000)


def chromium() -> str:
    """Where it is. Without one the test is skipped, but in CI it fails: there it has to be."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        why = f"there is none of {', '.join(_NAMES)} to look at the page with"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    # A browser that runs as root has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page in a context of its own: what it said on its console, what it asked of whom."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page: Page = context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _OF_THE_NETWORK not in message.text:
            self.errors.append(message.text)

    def _asked(self, request: Request) -> None:
        # Not what never leaves the browser.
        if not request.url.startswith(("blob:", "data:")):
            self.hosts.add(request.url.split("/")[2])


@contextlib.contextmanager
def visiting(browser: Browser, **more: Any) -> Iterator[Visit]:
    """What the page must never do is looked at when the test is over."""
    context = browser.new_context(**more)
    context.set_default_timeout(PATIENCE_S * 1000)
    visit = Visit(context)
    try:
        yield visit
    finally:
        context.close()
    assert visit.errors == []
    assert len(visit.hosts) <= 1, visit.hosts


class Backstage:
    """A loop in a thread, where commanders and proxies live while the test's own thread looks at the page."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backstage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._stack.aclose())
        self.do(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """Until it is done."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_S)

    def link(self, address: str, *agents: str, **more: Any) -> Link:
        """A commander, linked until the end."""
        return self.do(self._stack.enter_async_context(linked(address, *agents, **more)))

    def started(self, link: Link) -> Turn:
        return self.do(link.started())

    def proxy(self, target: str) -> TcpProxy:
        return self.do(self._stack.enter_async_context(tcp_proxy(target)))

    def call(self, what: Any, *arguments: Any) -> None:
        """A plain function, in the loop's thread."""

        async def called() -> None:
            what(*arguments)

        self.do(called())
