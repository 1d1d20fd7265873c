"""A LangGraph graph as an agent of ours.

The graph runs by its own `astream`: what its models say comes token by token, what its nodes interrupt for is asked of
the user, and the graph goes on with the answer. Leaving the stream cancels the nodes' tasks, which closes the models'
connections. Neither LangGraph nor LangChain is there for everybody, so their modules are looked up by name, in `_part`.
"""

import asyncio
import importlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from commander.adapters import offers, upstream
from commander.adapters.parts import content_part, plain
from commander.adapters.showing import STEP, Meter, Showing
from commander.conversation import Message
from commander.errors import AgentError, QuestionUnanswered, ToolFailed
from commander.models import Trouble
from commander.models.repair import whole
from commander.outputs import Output, Progress
from commander.turn import Turn

# In `config["configurable"]`, where nodes find the turn.
TURN: Final = "turn"
_MODES: Final = ("messages", "updates", "custom")


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a turn and a graph fit together, where the common way does not do."""

    tools: Collection[str] | None = None
    # Whose words are the answer; None: all nodes'.
    nodes: Collection[str] | None = None
    input: Callable[[Turn], Any] | None = None
    answer: Callable[[Any], str] | None = None
    config: Callable[[Turn], Mapping[str, Any]] | None = None
    context: Callable[[Turn], Any] | None = None


class Live:
    """What runs a turn: the agent's function."""

    def __init__(self, graph: Any, name: str, wiring: Wiring) -> None:
        self._graph = graph
        self._name = name
        self._wiring = wiring

    async def __call__(self, turn: Turn) -> AsyncIterator[Output | str]:
        wiring = self._wiring
        chosen = offers.chosen(turn, wiring.tools)
        showing = Showing([offer.name for offer in chosen])
        watching = Watching(turn, showing)
        own = None if wiring.config is None else wiring.config(turn)
        config = _config(turn, own, watching)
        graph = self._graph if is_graph(self._graph) else self._graph(tools(turn, wiring.tools))
        try:
            running = Running(graph, config, wiring, showing, turn)
            async with aclosing(running.live(self._input(turn))) as outputs:
                async for output in outputs:
                    yield output
            await watching.told()
        except Exception as error:
            failure = _failed(self._name, error, showing)
            if failure is error:
                raise
            raise failure from None
        finally:
            await _forget(graph, own, config)

    def _input(self, turn: Turn) -> Any:
        if self._wiring.input is not None:
            if (made := self._wiring.input(turn)) is None:
                raise TypeError(
                    "from_langgraph: input should make the graph's input of the turn, and made None"
                )
            return made
        return {"messages": list(messages(turn.conversation))}


class Running:
    """One turn of one graph: as many runs of it as there are interrupts, and one more."""

    def __init__(
        self, graph: Any, config: Mapping[str, Any], wiring: Wiring, showing: Showing, turn: Turn
    ) -> None:
        self._graph = graph
        self._config = config
        self._wiring = wiring
        self._showing = showing
        self._turn = turn
        self._used: Counter[str] = Counter()
        self._meter = Meter()
        self._model = ""
        self._state: Any = None

    async def live(self, asked: Any) -> AsyncGenerator[Output | str, None]:
        while asked is not None:
            interrupts: dict[str, Any] = {}
            stream = self._graph.astream(
                asked,
                self._config,
                context=None if self._wiring.context is None else self._wiring.context(self._turn),
                stream_mode=[*_MODES, "values"] if self._wiring.answer else [*_MODES],
                subgraphs=True,
            )
            async with aclosing(stream) as events:
                async for place, mode, told in events:
                    if mode == "updates":
                        interrupts |= {each.id: each for each in _interrupts(told)}
                    for output in self._said(place, mode, told):
                        yield output
            asked = await self._resumed(list(interrupts.values()))
        if self._wiring.answer is not None:
            answer: object = self._wiring.answer(self._state)
            if not isinstance(answer, str):
                raise TypeError(
                    f"from_langgraph: answer should make a str of the state, not {type(answer).__name__}"
                )
            for output in self._showing.text(answer):
                yield output
        for output in self._showing.rest():
            yield output

    def _said(self, place: Sequence[str], mode: str, told: Any) -> Iterator[Output | str]:
        if mode == "messages":
            message, about = told
            # Chunks of one are of a class of their own, and of this type as well.
            if message.type in ("ai", "AIMessageChunk"):
                yield from self._message(message, str(about.get("langgraph_node", "")))
        elif mode == "custom":
            yield told if isinstance(told, Output) else Progress(offers.cut(offers.shown(told)))
        elif mode == "values" and not place:
            self._state = told

    def _message(self, message: Any, node: str) -> Iterator[Output | str]:
        wiring = self._wiring
        is_answer = wiring.answer is None if wiring.nodes is None else node in wiring.nodes
        for block in message.content_blocks:
            if block["type"] == "text":
                text = block.get("text")
                yield from self._showing.text(text) if is_answer else self._showing.reasoning(text, node)
            elif block["type"] == "reasoning":
                yield from self._showing.reasoning(block.get("reasoning"), STEP if is_answer else node)
        # Told before what it has used, and not always with it.
        self._model = str(message.response_metadata.get("model_name") or self._model)
        if message.usage_metadata:
            used = message.usage_metadata
            details = used.get("output_token_details") or {}
            self._used.update(
                input=used["input_tokens"],
                output=used["output_tokens"],
                reasoning=details.get("reasoning") or 0,
            )
            spent = self._used
            yield from self._meter.used(self._model, spent["input"], spent["output"], spent["reasoning"])

    async def _resumed(self, interrupts: Sequence[Any]) -> Any:
        """What the graph goes on with; None when it has come to its end."""
        if not interrupts:
            return None
        if not getattr(self._graph, "checkpointer", None):
            raise AgentError(
                "the graph interrupts itself and has no checkpointer to go on from; compile it with one:"
                " graph.compile(checkpointer=InMemorySaver())",
                code="agent_misconfigured",
            )
        answers = await asyncio.gather(*(_answer(self._turn, each) for each in interrupts))
        resume = {each.id: answer for each, answer in zip(interrupts, answers, strict=True)}
        return _part("langgraph.types").Command(resume=resume)


class Watching:
    """The tools that the graph itself runs, told as they begin and end. Nodes may run in threads of their own."""

    def __init__(self, turn: Turn, showing: Showing) -> None:
        self._turn = turn
        self._showing = showing
        self._loop = asyncio.get_running_loop()
        self._telling: set[asyncio.Task[None]] = set()

    def handler(self) -> Any:
        """As LangChain's callbacks want it."""
        kind = _part("langchain_core.callbacks").BaseCallbackHandler
        began, ended = self._began, self._ended

        def on_tool_start(_: Any, serialized: Any, input_str: str, **told: Any) -> None:
            name = str((serialized or {}).get("name") or told.get("name") or "tool")
            began(str(told["run_id"]), name, told.get("inputs") or input_str)

        def on_tool_end(_: Any, output: Any, **told: Any) -> None:
            ended(str(told["run_id"]), getattr(output, "content", output))

        def on_tool_error(_: Any, error: BaseException, **told: Any) -> None:
            ended(str(told["run_id"]), f"{type(error).__name__}: {error}")

        own = {"on_tool_start": on_tool_start, "on_tool_end": on_tool_end, "on_tool_error": on_tool_error}
        return type("Watching", (kind,), {"run_inline": True, **own})()

    async def told(self) -> None:
        """Until all that it knows has been said."""
        if self._telling:
            await asyncio.gather(*self._telling)

    def _began(self, call_id: str, tool: str, arguments: object) -> None:
        self._loop.call_soon_threadsafe(self._tell, lambda: self._showing.call(call_id, tool, arguments))

    def _ended(self, call_id: str, result: object) -> None:
        self._loop.call_soon_threadsafe(self._tell, lambda: self._showing.result(call_id, result))

    def _tell(self, outputs: Callable[[], Iterator[Output | str]]) -> None:
        task = self._loop.create_task(self._emit(list(outputs())))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _emit(self, outputs: Sequence[Output | str]) -> None:
        for output in outputs:
            await self._turn.emit(output)


def is_graph(graph: object) -> bool:
    return hasattr(graph, "astream")


def tools(turn: Turn, names: Collection[str] | None) -> list[Any]:
    """See `langchain_tools`."""
    part = _part("langchain_core.tools")

    def made(offer: Any) -> Any:
        async def call(**arguments: Any) -> str:
            try:
                return await offers.called(turn, offer.name, arguments)
            except ToolFailed as failure:
                raise part.ToolException(offers.told(failure)) from None

        return part.StructuredTool(
            name=offer.name,
            description=offer.description or offer.name,
            args_schema=offers.schema(offer),
            coroutine=call,
            # The model is told.
            handle_tool_error=True,
        )

    return [made(offer) for offer in offers.chosen(turn, names)]


def messages(conversation: Sequence[Message]) -> Iterator[Any]:
    """In LangChain's words. Trouble for a part that can't be handed over."""
    part = _part("langchain_core.messages")
    for number, message in enumerate(conversation):
        # With an id each, so that a node that gives them back does not say them again.
        told = {"id": f"asked-{number}"}
        text = "".join(plain(each) for each in message.parts)
        match message.role:
            case "system":
                yield part.SystemMessage(text, **told)
            case "assistant":
                yield part.AIMessage(text, **told)
            case "tool":
                # Which call it answers is not known any more.
                yield part.HumanMessage(f"A tool returned: {text}", **told)
            case _:
                contents = [content_part(each) for each in message.parts]
                is_text = all(each["type"] == "text" for each in contents)
                text = "".join(each["text"] for each in contents) if is_text else ""
                yield part.HumanMessage(text if is_text else contents, **told)


def _config(turn: Turn, own: Mapping[str, Any] | None, watching: Watching) -> dict[str, Any]:
    """A thread of the graph for each attempt at a session, unless its author names another."""
    config = dict(own or {})
    thread = turn.session_id if turn.attempt == 1 else f"{turn.session_id}.{turn.attempt}"
    config["configurable"] = {"thread_id": thread, **config.get("configurable", {}), TURN: turn}
    config["callbacks"] = [*(config.get("callbacks") or ()), watching.handler()]
    return config


async def _forget(graph: Any, own: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """What a checkpointer has kept of a thread that only this turn knows."""
    checkpointer: Any = getattr(graph, "checkpointer", None)
    if hasattr(checkpointer, "adelete_thread") and "thread_id" not in (own or {}).get("configurable", {}):
        await checkpointer.adelete_thread(config["configurable"]["thread_id"])


def _interrupts(told: Any) -> Sequence[Any]:
    found = told.get("__interrupt__", ()) if isinstance(told, Mapping) else ()
    return found if isinstance(found, Sequence) else ()


async def _answer(turn: Turn, interrupt: Any) -> Any:
    """What the user says to it. What a graph wants to be approved is asked call by call."""
    value = interrupt.value
    if isinstance(value, Mapping) and isinstance(value.get("action_requests"), Sequence):
        return {"decisions": [await _decision(turn, each) for each in value["action_requests"]]}
    options: Any = value.get("options") if isinstance(value, Mapping) else None
    are_texts = isinstance(options, Sequence) and all(isinstance(each, str) and each for each in options)
    schema = getattr(interrupt, "response_schema", None)
    try:
        return await turn.ask(
            _question(value),
            options if are_texts and not isinstance(options, str) else (),
            schema=schema if isinstance(schema, Mapping) else None,
        )
    except QuestionUnanswered as unanswered:
        raise AgentError(f"the graph can't go on: {unanswered}", code=f"question_{unanswered.why}") from None


async def _decision(turn: Turn, request: Mapping[str, Any]) -> dict[str, str]:
    """As LangChain's middleware for people wants it."""
    name, why = str(request.get("name", "tool")), str(request.get("description") or "")
    if await offers.approved(turn, name, request.get("args", {}), why):
        return {"type": "approve"}
    return {"type": "reject", "message": "The user does not allow this call."}


def _question(value: Any) -> str:
    if isinstance(value, Mapping):
        texts = [
            value[key] for key in ("question", "text", "prompt", "message", "description") if key in value
        ]
        value = next((text for text in texts if isinstance(text, str) and text), value)
    return (
        whole(offers.cut(value if isinstance(value, str) else str(value))) or "The graph asks how to go on."
    )


def _failed(agent: str, error: Exception, showing: Showing) -> Exception:
    """The same in words for the user, as far as it is known; the rest is the author's own."""
    if type(error).__name__ == "GraphRecursionError":
        return AgentError(
            f"agent {agent!r} went through its graph without an end; raise recursion_limit of its config, or ask for"
            " less at once",
            code="rounds_spent",
        )
    trouble: Trouble | None = upstream.trouble(error)
    if trouble is None:
        return error
    return upstream.failed(upstream.model_of(agent), "", trouble, has_begun=showing.has_begun)


def _part(module: str) -> Any:
    return importlib.import_module(module)
