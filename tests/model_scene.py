"""Models of scripted servers, as a turn has them, without a commander around: for all that needs no link."""

import os
from typing import Any

import prometheus_client
from model_server import ModelServer

from commander.errors import ModelFailed
from commander.metrics import Metrics
from commander.models.model import Model, Prompt, TurnModels
from commander.models.registry import open_models
from commander.outputs import Output, Thought, Used
from commander.settings import Settings

# Tries that a test need not wait for.
QUICK = {"retry_first_s": 0.01}


def table(server: ModelServer, **more: object) -> dict[str, object]:
    """What the settings say of a model of this server."""
    return {"model": "openai-chat:scripted", "base_url": server.base_url, **QUICK, **more}


class Scene:
    """A turn's models. `emitted` is what they said of themselves; `left_s` is what the turn has left."""

    def __init__(
        self,
        tables: dict[str, dict[str, object]],
        environ: dict[str, str] | None = None,
        left_s: float | None = None,
        **told: object,
    ) -> None:
        self.metrics = Metrics()
        settings = Settings.model_validate({"models": tables, **told})
        self.models = open_models(settings, os.environ if environ is None else environ, self.metrics)
        self.turn = TurnModels(self.models, lambda: left_s)
        self.emitted: list[Output] = []

    def model(self, name: str = "") -> Model:
        return self.turn.model(name, self._emit)

    async def _emit(self, output: Output) -> None:
        self.emitted.append(output)

    async def heard(self, prompt: Prompt = "Hi", name: str = "", **how: Any) -> "Heard":
        """All of an answer."""
        heard = Heard()
        try:
            async for output in self.model(name).stream(prompt, **how):
                heard.take(output)
        except ModelFailed as failure:
            heard.failure = failure
        return heard

    async def failure(self, prompt: Prompt = "Hi", name: str = "", **how: Any) -> ModelFailed:
        """What an answer failed with, which it must."""
        heard = await self.heard(prompt, name, **how)
        assert heard.failure is not None, f"it answered: {heard.text}"
        return heard.failure

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where nothing was counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def exposition(self) -> str:
        return prometheus_client.generate_latest(self.metrics.registry).decode()


class Heard:
    """What came of an answer, by kind."""

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.used: list[Used] = []
        self.failure: ModelFailed | None = None

    def take(self, output: Output | str) -> None:
        match output:
            case str():
                self.text += output
            case Thought(_, text):
                self.thoughts += text
            case Used():
                self.used.append(output)
            case _:
                raise AssertionError(f"a model does not say {output}")
