"""What is told to everybody of a commander's models: names, and what they can do; and that nothing else is."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from asynchronous import asynchronous
from commander_process import running_commander
from dialling import administering, chatting
from dispatcher_process import clean_environment, running_dispatcher
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2
from web_viewer import browsing

from commander.models.abilities import Offer, offer
from commander.models.registry import offered_models
from commander.models.table import MODELS_MAX, ModelTable
from commander.serve import identity
from commander.settings import Settings
from dispatcher.core import packets as core
from dispatcher.rpc import codec

# What is private stands in them as "hunter", or is no word of anything else here.
TABLES = """
[models.fast]
model = "openai-chat:qwen3"
base_url = "http://127.0.0.1:1/hunter-path/v1"
api_key_env = "HUNTERS_VARIABLE"
system = "hunter-prompt"
parameters = { temperature = 0.123454, extra_headers = { x-team = "hunter-header" } }
fallbacks = ["deep"]
accepts = ["image/*"]
calls_tools = true
structured_output = false

[models.deep]
model = "anthropic:claude-opus-5"
api_key_file = "hunters-file"
"""
PRIVATE = ("hunter", "127.0.0.1:1/", "0.123454", "x-team", "base_url", "api_key", "parameters", "fallbacks")
FAST = agent_pb2.ModelOffer(
    name="fast",
    model="openai-chat:qwen3",
    takes_images=True,
    takes_files=False,
    calls_tools=True,
    structured_output=False,
)
DEEP = agent_pb2.ModelOffer(name="deep", model="anthropic:claude-opus-5")


def known(**told: object) -> Offer:
    return offer("m", ModelTable.model_validate({"model": "x:y", **told}))


def test_what_a_table_leaves_out_is_not_known() -> None:
    assert known() == Offer("m", "x:y", None, None, None, None, None)


@pytest.mark.parametrize(
    ("accepts", "images", "files"),
    [
        ([], False, False),
        (["image/png"], True, False),
        (["application/pdf"], False, True),
        (["image/*", "audio/*"], True, True),
    ],
)
def test_what_a_table_accepts_is_what_the_model_takes(accepts: list[str], images: bool, files: bool) -> None:
    told = known(accepts=accepts)
    assert (told.takes_images, told.takes_files) == (images, files)


def test_what_a_table_says_of_the_model_is_told() -> None:
    told = known(calls_tools=False, structured_output=True, shows_reasoning=True)
    assert (told.calls_tools, told.structured_output, told.shows_reasoning) == (False, True, True)


def test_the_default_of_the_command_line_is_one_of_them() -> None:
    settings = Settings.model_validate({"model": "openai-chat:m", "base_url": "http://127.0.0.1:1/v1"})
    assert offered_models(settings) == [Offer("default", "openai-chat:m", None, None, None, None, None)]


def test_as_many_models_as_there_may_be_are_welcome() -> None:
    """The longest names and those that take the most bytes, and the one of the command line besides."""
    longest = "x:" + "\N{ALCHEMICAL SYMBOL FOR AIR}" * 254
    tables = {f"{number:0>64}": {"model": longest} for number in range(MODELS_MAX)}
    settings = Settings.model_validate({"models": tables, "model": longest, "commander_id": "c"})
    who = identity(settings, {})
    hello = agent_pb2.Hello(
        commander_id="c", instance="i", slots=1, agents=[agent_pb2.AgentOffer(name="a")], models=who.models
    )
    read = codec.upstream(agent_pb2.UpstreamPacket(hello=hello).SerializeToString())
    assert isinstance(read, core.Hello)
    assert len(read.models) == MODELS_MAX + 1


def printed(address: str, *arguments: str) -> str:
    """What `dispatcher` prints, on as wide a screen as it likes."""
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", *arguments, "--dispatcher", address],
        env=clean_environment(COLUMNS="500"),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@asynchronous
async def test_everybody_sees_names_and_abilities_and_nobody_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNTERS_VARIABLE", "sk-hunter-of-the-environment")
    (tmp_path / "hunters-file").write_text("sk-hunter-of-the-file")
    (tmp_path / "models.toml").write_text(TABLES)
    with running_dispatcher("--http-address", "127.0.0.1:0") as dispatcher:
        flags = ("assistant", "--config", "models.toml", "--dispatcher", dispatcher.address)
        with running_commander(tmp_path, *flags) as commander:
            await asyncio.to_thread(commander.wait_for, "linked to")
            async with (
                chatting(dispatcher.address) as chat,
                administering(dispatcher.address) as admin,
                browsing(dispatcher.url) as client,
            ):
                (listing,) = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
                assert list(listing.models) == [DEEP, FAST]
                (view,) = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
                assert list(view.models) == [DEEP, FAST]
                paths = ("/v1/agents", "/v1/models", "/v1/models/assistant", "/openapi.json")
                pages = [(await client.get(path)).text for path in paths]
            words = [
                await asyncio.to_thread(printed, dispatcher.address, *command)
                for command in (["agents"], ["agents", "--json"], ["commanders"], ["commanders", "--json"])
            ]
            for each in (*pages[:3], *words):
                assert "fast" in each
                assert "deep" in each
            assert "deep,fast(images,tools)" in words[0]
            assert '"model":"anthropic:claude-opus-5"' in pages[1].replace(" ", "")
            answers = [str(listing), str(view), *pages[:3], *words, *dispatcher.log, *commander.lines]
    for secret in PRIVATE:
        assert [each for each in answers if secret in each] == []
    assert "hunter" not in pages[3]
