"""The page's files over HTTP: served from the package, with headers that let nothing else in, and nothing inline."""

import hashlib
import re
from pathlib import Path

import httpx
import pytest
from asynchronous import asynchronous
from dispatcher_process import ROOT, DispatcherProcess, running_dispatcher
from web_viewer import browsing

from dispatcher.core.endings import ENDINGS

DISPATCHER_FLAGS = ("--http-address", "127.0.0.1:0")
FOLDER = ROOT / "dispatcher" / "edge" / "page"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "") and path.is_file())
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def _is_guarded(response: httpx.Response) -> None:
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


@asynchronous
async def test_every_file_is_served_as_it_is_and_guarded(dispatcher: DispatcherProcess) -> None:
    assert {"index.html", "page.css", "page.js", "icon.svg"} <= set(FILES)
    async with browsing(dispatcher.url) as client:
        for name in FILES:
            response = await client.get(f"/page/{name}")
            assert response.status_code == 200, name
            assert response.content == (FOLDER / name).read_bytes()
            assert response.headers["content-type"] == TYPES[name.rpartition(".")[2]]
            _is_guarded(response)
        first = await client.get("/")
        assert first.content == (FOLDER / "index.html").read_bytes()
        _is_guarded(first)
        assert (await client.head("/")).headers["content-length"] == str(len(first.content))


@asynchronous
async def test_a_browser_that_has_a_file_is_told_that_it_is_the_same(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url) as client:
        first = await client.get("/page/page.js")
        assert first.headers["cache-control"] == "no-cache"
        for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
            again = await client.get("/page/page.js", headers={"if-none-match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        changed = await client.get("/page/page.js", headers={"if-none-match": '"other"'})
        assert changed.status_code == 200


@asynchronous
async def test_it_has_the_words_for_every_ending(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url) as client:
        told = (await client.get("/page/endings.json")).json()
    assert told == {ending.value: traits.advice for ending, traits in ENDINGS.items()}


@asynchronous
async def test_the_page_is_open_where_tokens_are_asked_for_and_nothing_else_is(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"a-token").hexdigest()
    tokens.write_text(f'[[tokens]]\nname = "app"\nrole = "application"\nsha256 = "{digest}"\n')
    with running_dispatcher(*DISPATCHER_FLAGS, "--tokens-file", str(tokens)) as dispatcher:
        async with browsing(dispatcher.url) as client:
            for path in ("/", "/page/page.js", "/page/endings.json"):
                assert (await client.get(path)).status_code == 200, path
            for path in ("/v1/agents", "/v1/sessions", "/pages", "/page"):
                assert (await client.get(path)).status_code == 401, path


@pytest.mark.parametrize(
    "path", ["/page/__init__.py", "/page/none.js", "/page/..%2fsse.py", "/page/", "/page"]
)
@asynchronous
async def test_nothing_else_is_served(dispatcher: DispatcherProcess, path: str) -> None:
    async with browsing(dispatcher.url) as client:
        response = await client.get(path)
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    markup = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\bstyle=|\bon\w+=|<script(?![^>]*\bsrc=)", markup)
    for name in FILES:
        text = (FOLDER / name).read_text()
        elsewhere = set(
            re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
        )
        assert elsewhere <= {"http://www.w3.org"}, name


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_no_script_makes_markup_of_text(name: str) -> None:
    barred = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
    assert not re.search(barred, (FOLDER / name).read_text())


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css", ".html"))])
def test_files_stay_small(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 400
