"""Agents that people have already, served as they are: by one call each.

    from commander.adapters import from_pydantic_ai
    weather = from_pydantic_ai(my_agent, name="weather", description="Answers questions about the weather")

`commander run my_file:weather` serves it. A library is imported when its adapter is first called; see docs/adapters.md.

    offers.py    the dispatcher's tools in a foreign agent's hands       showing.py   what viewers see of its work
    upstream.py  what libraries of providers raise, as ModelFailed       parts.py     parts of messages
    pydantic_ai.py, openai.py …  one for each library
"""

import importlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from commander.agent import Agent as _Agent
from commander.agent import AnyAgent, OnRestart
from commander.outputs import Output
from commander.turn import Turn

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.usage import UsageLimits

    from commander.models import ToolCall

# What a model may be given besides text, where it takes it.
_FILES: Final = ("text/plain", "application/json", "image/*", "audio/*", "application/pdf")

__all__ = [
    "from_langgraph",
    "from_openai",
    "from_openai_agents",
    "from_pydantic_ai",
    "langchain_tools",
    "openai_pieces",
]


def from_pydantic_ai(
    agent: "AbstractAgent[Any, Any]",
    name: str | None = None,
    *,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = _FILES,
    on_restart: OnRestart = "restart",
    tools: Collection[str] | None = None,
    deps: Callable[[Turn], Any] | None = None,
    usage_limits: "UsageLimits | None" = None,
) -> AnyAgent:
    """An agent that runs a pydantic-ai `Agent`. Without a name it is called like that one.

    It gets the dispatcher's tools besides its own: all on offer, or those that `tools` names. `deps` makes of a turn
    what its tools find in `ctx.deps`; `usage_limits` are those of each turn. Tools that wait for approval ask the user.
    """
    _require("pydantic_ai", "pydantic-ai-slim", "llm")
    from pydantic_ai.agent import AbstractAgent  # noqa: PLC0415 - see the module

    from commander.adapters.pydantic_ai import Live  # noqa: PLC0415

    if not isinstance(agent, AbstractAgent):
        raise TypeError(
            f"from_pydantic_ai: the agent should be an Agent of pydantic-ai, not {type(agent).__name__}"
        )
    told = _name("from_pydantic_ai", name, agent.name)
    live = Live(agent, told, _names(tools), deps, usage_limits)
    return _served(live, told, description, version, accepts, on_restart)


def from_openai(
    client: "AsyncOpenAI",
    *,
    model: str,
    name: str,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = _FILES,
    on_restart: OnRestart = "restart",
    system: str = "",
    tools: Collection[str] | None = None,
    rounds: int = 10,
    parameters: Mapping[str, Any] | None = None,
) -> AnyAgent:
    """An agent that asks a model by chat completions of this client, and calls the tools that it wants.

    Those are the dispatcher's: all on offer, or the ones that `tools` names, in at most `rounds` rounds. `parameters`
    are what else a request has, e.g. `{"temperature": 0}`.
    """
    _require("openai", "openai", "llm")
    from openai import AsyncOpenAI  # noqa: PLC0415 - see the module

    from commander.adapters.openai import Live  # noqa: PLC0415

    if not isinstance(client, AsyncOpenAI):
        raise TypeError(f"from_openai: the client should be an AsyncOpenAI, not {type(client).__name__}")
    if rounds < 1:
        raise ValueError(f"from_openai: rounds should be 1 or more, not {rounds}")
    if taken := sorted({"messages", "model", "stream"} & set(parameters or {})):
        raise ValueError(f"from_openai: parameters should not have {', '.join(taken)}: those it says itself")
    live = Live(
        client,
        model,
        name,
        system=system,
        tools=_names(tools),
        rounds=rounds,
        parameters=dict(parameters or {}),
    )
    return _served(live, name, description, version, accepts, on_restart)


def openai_pieces(stream: Any, *, calls: "list[ToolCall] | None" = None) -> AsyncIterator[Output | str]:
    """What a stream of OpenAI's SDK says, as an agent may yield it: text, thoughts, usage.

    `stream` is what `create(…, stream=True)` of an AsyncOpenAI client gives, of chat completions or of responses,
    awaited or not, or its helper `stream(…)`. The calls that the model wants are added to `calls`, with `call_id`,
    `name` and `arguments_json`, and left to you. ModelFailed for what the SDK raises, and for an answer that breaks
    off.
    """
    _require("openai", "openai", "llm")
    from commander.adapters.openai import pieces  # noqa: PLC0415 - see the module

    return pieces(stream, calls)


def from_langgraph(
    graph: Any,
    name: str,
    *,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = _FILES,
    on_restart: OnRestart = "restart",
    tools: Collection[str] | None = None,
    nodes: Collection[str] | None = None,
    input: Callable[[Turn], Any] | None = None,  # noqa: A002 - as the library calls it
    answer: Callable[[Any], str] | None = None,
    config: Callable[[Turn], Mapping[str, Any]] | None = None,
    context: Callable[[Turn], Any] | None = None,
) -> AnyAgent:
    """An agent that runs a LangGraph graph: a compiled one, or a function that makes it of the dispatcher's tools,
    given as LangChain's, for each turn anew.

    The tools are all on offer, or those that `tools` names. What the models of all nodes say is the answer, or of those
    that `nodes` names. `input` makes the graph's input of a turn, where that is not `{"messages": …}`; `answer` makes
    the answer of the final state. `config` and `context` are the graph's; nodes find the turn in
    `config["configurable"]["turn"]`. An `interrupt` asks the user, where the graph has a checkpointer.
    """
    _require("langgraph", "langgraph", "adapters")
    from commander.adapters.langgraph import Live, Wiring, is_graph  # noqa: PLC0415 - see the module

    if not (is_graph(graph) or callable(graph)):
        right = "; compile it first" if hasattr(graph, "compile") else ""
        raise TypeError(
            "from_langgraph: the graph should be a compiled graph, or a function that makes one of tools, not"
            f" {type(graph).__name__}{right}"
        )
    live = Live(graph, name, Wiring(_names(tools), nodes, input, answer, config, context))
    return _served(live, name, description, version, accepts, on_restart)


def from_openai_agents(
    agent: Any,
    name: str | None = None,
    *,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = _FILES,
    on_restart: OnRestart = "restart",
    tools: Collection[str] | None = None,
    context: Callable[[Turn], Any] | None = None,
    run_config: Any = None,
    max_turns: int | None = None,
) -> AnyAgent:
    """An agent that runs one of OpenAI's Agents SDK. Without a name it is called like that one.

    It, and all agents that it may hand over to, get the dispatcher's tools besides their own: all on offer, or those
    that `tools` names. `context` makes of a turn what their tools find in `ctx.context`; `run_config` and `max_turns`
    are the runner's. Tools that need approval ask the user.
    """
    _require("agents", "openai-agents", "adapters")
    from commander.adapters.openai_agents import Live, Wiring  # noqa: PLC0415 - see the module

    if not hasattr(agent, "handoffs"):
        raise TypeError(
            "from_openai_agents: the agent should be an Agent of OpenAI's Agents SDK, not"
            f" {type(agent).__name__}"
        )
    told = _name("from_openai_agents", name, agent.name)
    live = Live(agent, told, Wiring(_names(tools), context, run_config, max_turns))
    return _served(live, told, description, version, accepts, on_restart)


def langchain_tools(turn: Turn, tools: Collection[str] | None = None) -> list[Any]:
    """The dispatcher's tools as LangChain's, for a node that finds the turn in its config: all on offer, or those that
    `tools` names."""
    _require("langchain_core", "langchain-core", "adapters")
    from commander.adapters.langgraph import tools as made  # noqa: PLC0415 - see the module

    return made(turn, tools)


def _served(
    live: Callable[[Turn], AsyncIterator[Output | str]],
    name: str,
    description: str,
    version: str,
    accepts: Sequence[str],
    on_restart: OnRestart,
) -> AnyAgent:
    if on_restart == "continue":
        # Viewers would have the beginning twice.
        raise ValueError(
            f"agent {name!r}: one that is brought begins anew, so on_restart should be 'restart' or 'never'"
        )
    return _Agent(live, name, description, version, accepts, on_restart)


def _names(tools: Collection[str] | None) -> Collection[str] | None:
    if isinstance(tools, str):
        raise TypeError(f"tools should be names, e.g. [{tools!r}], not a str")
    for tool in tools or ():
        if not isinstance(tool, str):
            raise TypeError(f"tools should be names, e.g. ['search']; {tool!r} is none")
    return None if tools is None else frozenset(tools)


def _name(called: str, name: str | None, own: object) -> str:
    """What is given, or what the foreign agent is called, as a name that can be one."""
    if name is not None:
        return name
    if not isinstance(own, str) or not own:
        raise ValueError(
            f"{called}: the agent has no name of its own; give it one: {called}(…, name='weather')"
        )
    return own.replace("_", "-").replace(" ", "-")


def _require(module: str, package: str, extra: str) -> None:
    """ImportError that says what to install."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this adapter needs {package}, which can't be imported ({error}): pip install 'chatstream[{extra}]'"
        ) from None
