"""docs/adapters.md, run word for word against a scripted server: the beginning, and the sections of one's libraries."""

import json
import re
from pathlib import Path

from model_server import Call, Finish, ModelServer, Request, Step, calls, says
from page import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "adapters.md"
# Where the page says that a server is.
SERVER = "http://127.0.0.1:8000/v1"


def script(request: Request) -> list[Step]:
    """A model that calculates and opens doors with tools, and says what it is told to."""
    last = request.messages[-1]
    content = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    if last["role"] == "tool":
        return says(f"It is {json.loads(content)['result']}." if content.startswith("{") else content)
    if "6 * 7" in content:
        return calls(Call("calculate", ['{"expression": "6 * 7"}']))
    if room := re.search(r"Open room (\d+)", content):
        return calls(Call("open_door", [f'{{"room": {room[1]}}}']))
    return [*content.removeprefix("Say: "), Finish()]


def sections(*titles: str) -> str:
    """What the page says before its examples, and under these titles."""
    beginning, *others = PAGE.read_text().split("\n## ")
    by_title = {each.partition("\n")[0]: each for each in others}
    return "\n## ".join([beginning, *(by_title[title] for title in titles)])


def read(folder: Path, *titles: str) -> None:
    """Runs them."""
    page, inner = folder / "adapters.md", folder / "folder"
    inner.mkdir()
    with ModelServer(script) as server:
        page.write_text(sections(*titles).replace(SERVER, server.base_url))
        with Reader(page, inner) as reader:
            reader.read()
        assert len(server.requests) > len(titles)
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(page)) > 1
