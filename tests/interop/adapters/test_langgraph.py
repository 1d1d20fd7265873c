"""A LangGraph graph, served: the real library, its models LangChain's against a scripted server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from adapter_scene import (
    answers_fails_and_stops,
    closes_its_connection,
    closes_when_it_is_left,
    script,
    served,
)
from adapters_page import read
from asynchronous import asynchronous
from model_server import Call, Finish, ModelServer, Raw, Reset, Status, Step, calls, says

from commander import Blob, JsonPart, Message, Thought, ToolDenied, Turn
from commander.adapters import from_langgraph, langchain_tools
from commander.testing import DECLINED, AgentRun, Question, run_agent

pytestmark = pytest.mark.interop
graphs: Any = pytest.importorskip("langgraph.graph")
prebuilt: Any = pytest.importorskip("langgraph.prebuilt")
memory: Any = pytest.importorskip("langgraph.checkpoint.memory")
config_of: Any = pytest.importorskip("langgraph.config")
types: Any = pytest.importorskip("langgraph.types")
core_messages: Any = pytest.importorskip("langchain_core.messages")
core_tools: Any = pytest.importorskip("langchain_core.tools")
langchain: Any = pytest.importorskip("langchain_openai")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def model_of(server: ModelServer) -> Any:
    return langchain.ChatOpenAI(
        model="scripted", base_url=server.base_url, api_key="sk-secret", max_retries=0, stream_usage=True
    )


def double(a: int) -> int:
    """Twice as much"""
    return 2 * a


def looping(model: Any, own: Any = ()) -> Callable[[list[Any]], Any]:
    """Makes a graph of the dispatcher's tools: a model that calls them, and tools of its own, until it has done."""

    def build(offered: list[Any]) -> Any:
        tools = [*own, *offered]

        async def ask(state: Any) -> Any:
            asked = model.bind_tools(tools) if tools else model
            return {"messages": [await asked.ainvoke(state["messages"])]}

        graph = graphs.StateGraph(graphs.MessagesState)
        graph.add_node("ask", ask)
        graph.add_node("tools", prebuilt.ToolNode(tools))
        graph.add_edge(graphs.START, "ask")
        graph.add_conditional_edges("ask", prebuilt.tools_condition)
        graph.add_edge("tools", "ask")
        return graph.compile()

    return build


def line(*nodes: Callable[..., Any], state: Any = None, saver: Any = None) -> Any:
    """A graph of nodes one after the other, called like their functions."""
    graph = graphs.StateGraph(graphs.MessagesState if state is None else state)
    last = graphs.START
    for node in nodes:
        graph.add_node(node.__name__, node)
        graph.add_edge(last, node.__name__)
        last = node.__name__
    return graph.compile(checkpointer=saver)


def progress(run: AgentRun) -> list[str]:
    return [event.fields["text"] for event in run.events if event.kind == "progress"]


# ---- what it says ----


@asynchronous
async def test_text_comes_token_by_token_and_usage_is_told(server: ModelServer) -> None:
    model = model_of(server)
    server.then(["Hel", "lo", Finish(reasoning_tokens=2)])

    async def ask(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    run = await run_agent(from_langgraph(line(ask), "polite"), "Hi")
    assert (run.outcome, run.text) == ("completed", "Hello")
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.reasoning_tokens) == (7, 3, 2)
    assert run.usage.model == "scripted"


class Plain(TypedDict):
    messages: list[Any]


@asynchronous
@pytest.mark.parametrize("state", [None, Plain], ids=["with ids", "without"])
async def test_what_nodes_say_themselves_is_said_once(state: Any) -> None:
    def think(state: Any) -> Any:
        blocks = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Hello. "}]
        return {"messages": [*state["messages"], core_messages.AIMessage(blocks)]}

    def repeat(state: Any) -> Any:
        # All that was said before is given back: nothing of it is new.
        return {"messages": [*state["messages"], core_messages.AIMessage("Bye.")]}

    conversation = [Message("user", ("Hi",)), Message("assistant", ("Hi to you",)), Message("user", ("Bye",))]
    run = await run_agent(from_langgraph(line(think, repeat, state=state), "polite"), conversation)
    assert (run.text, run.thoughts) == ("Hello. Bye.", "Hm.")


@asynchronous
async def test_only_some_nodes_may_have_the_word() -> None:
    def draft(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage("Perhaps so.")]}

    def final(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage("It is so.")]}

    run = await run_agent(from_langgraph(line(draft, final), "sure", nodes=["final"]), "Hi")
    assert (run.text, run.thoughts) == ("It is so.", "Perhaps so.")
    assert [event.fields["step_name"] for event in run.events if event.kind == "thought"] == ["draft"]


class Order(TypedDict, total=False):
    item: str
    price: int
    answers: list[Any]


@asynchronous
async def test_a_state_without_messages_has_an_input_and_an_answer() -> None:
    def priced(state: Any) -> Any:
        config_of.get_stream_writer()("pricing …")
        config_of.get_stream_writer()({"at": Path("shelf")})
        config_of.get_stream_writer()(Thought("till", "It is dear."))
        return {"price": len(state["item"])}

    made = from_langgraph(
        line(priced, state=Order),
        "till",
        input=lambda turn: {"item": turn.text},
        answer=lambda state: f"{state['item']} costs {state['price']}.",
    )
    run = await run_agent(made, "hat")
    assert run.text == "hat costs 3."
    assert progress(run) == ["pricing …", '{"at": "shelf"}']
    assert run.thoughts == "It is dear."


@pytest.mark.parametrize(
    ("wiring", "why"),
    [
        ({"input": lambda turn: None}, "input should make the graph's input of the turn, and made None"),
        ({"answer": lambda state: 5}, "answer should make a str of the state, not int"),
    ],
)
@asynchronous
async def test_what_makes_no_input_and_no_answer_is_told(wiring: dict[str, Any], why: str) -> None:
    def hello(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage("Hello.")]}

    run = await run_agent(from_langgraph(line(hello), "ada", **wiring), "Hi")
    assert run.failure is not None
    assert why in run.failure.message


@pytest.mark.parametrize("what", [b"{{{", b"[1]"])
@asynchronous
async def test_what_is_no_part_of_an_answer_is_the_model_s_failure(server: ModelServer, what: bytes) -> None:
    server.then(["Well", Raw(b"data: " + what + b"\n\n")])
    run = await run_agent(from_langgraph(looping(model_of(server)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == ("model_malformed", "model")


@asynchronous
async def test_a_graph_within_a_graph_is_heard(server: ModelServer) -> None:
    model = model_of(server)

    async def ask(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    inner = line(ask)
    outer = graphs.StateGraph(graphs.MessagesState)
    outer.add_node("inner", inner)
    outer.add_edge(graphs.START, "inner")
    run = await run_agent(from_langgraph(outer.compile(), "deep"), "Hi")
    assert run.text == "Hello, world!"
    assert run.usage.input_tokens == 7


# ---- tools ----


@asynchronous
async def test_the_dispatcher_s_tools_are_its_tools_too(server: ModelServer) -> None:
    wanted = [
        Call("search", ['{"q": "x"}'], "c-1", 0),
        Call("closed", ["{}"], "c-2", 1),
        Call("double", ['{"a": 21}'], "c-3", 2),
    ]
    server.then(["Let me see. ", *calls(*wanted)], says("Found."))

    def search(q: str) -> dict[str, str]:
        """Looks it up"""
        return {"found": q}

    def closed() -> None:
        raise ToolDenied("closed", "not today")

    made = from_langgraph(
        looping(model_of(server), [core_tools.tool(double)]), "seeker", tools=["search", "closed"]
    )
    run = await run_agent(made, "Find x", tools={"search": search, "closed": closed, "hidden": lambda: 1})
    assert run.text == "Let me see. Found."
    assert sorted((call.tool, call.failure) for call in run.calls) == [("closed", "denied"), ("search", "")]
    # Viewers see its own, and the dispatcher's as what they are.
    assert progress(run) == ["double …"]
    assert run.thoughts == '{"a": 21}\n→ 42\n'
    offered = {each["function"]["name"]: each["function"] for each in server.requests[0].body["tools"]}
    assert list(offered) == ["double", "search", "closed"]
    assert offered["search"]["description"] == "Looks it up"
    returned = {
        each["tool_call_id"]: each["content"]
        for each in server.requests[1].messages
        if each["role"] == "tool"
    }
    assert returned == {"c-1": '{"found": "x"}', "c-2": "denied: not today", "c-3": "42"}
    assert run.usage.input_tokens == 14


@asynchronous
async def test_a_node_finds_the_turn_and_its_tools() -> None:
    async def use(state: Any, config: Any) -> Any:
        turn: Turn = config["configurable"]["turn"]
        (add,) = langchain_tools(turn, ["add"])
        added = await add.ainvoke({"a": 1, "b": 2})
        return {"messages": [core_messages.AIMessage(f"{turn.user_id}: {added}")]}

    use.__annotations__["config"] = pytest.importorskip("langchain_core.runnables").RunnableConfig
    made = from_langgraph(line(use), "adder")
    run = await run_agent(made, "1 + 2", tools={"add": lambda a, b: a + b}, user_id="ada")
    assert run.text == "ada: 3"
    assert [call.tool for call in run.calls] == ["add"]
    assert progress(run) == []


@asynchronous
async def test_a_tool_of_its_own_that_fails_is_shown(server: ModelServer) -> None:
    def broken() -> None:
        """Never works"""
        raise LookupError("no such drawer")

    server.then(calls(Call("broken", ["{}"])), says("I can't."))
    run = await run_agent(from_langgraph(looping(model_of(server), [core_tools.tool(broken)]), "x"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.message) == ("agent_exception", "no such drawer")
    assert progress(run) == ["broken …"]


# ---- the conversation ----


@asynchronous
async def test_the_conversation_is_handed_over(server: ModelServer) -> None:
    conversation = [
        Message("system", ("Speak English.",)),
        Message("user", ("Hello",)),
        Message("assistant", ("Hello to you",)),
        Message("tool", (JsonPart('{"a": 1}'),)),
        Message("user", ("What is this?", Blob("image/png", b"\x89PNG"))),
    ]
    run = await run_agent(from_langgraph(looping(model_of(server)), "ada"), conversation)
    assert run.text == "Hello, world!"
    told = server.requests[0].messages
    assert [(each["role"], each["content"]) for each in told[:4]] == [
        ("system", "Speak English."),
        ("user", "Hello"),
        ("assistant", "Hello to you"),
        ("user", 'A tool returned: {"a": 1}'),
    ]
    assert [part["type"] for part in told[4]["content"]] == ["text", "image_url"]
    assert told[4]["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw=="


@asynchronous
async def test_what_can_not_be_handed_over_is_told(server: ModelServer) -> None:
    conversation = [Message("user", (Blob("image/png", uri="file:///etc/passwd"),))]
    run = await run_agent(from_langgraph(looping(model_of(server)), "ada"), conversation)
    assert run.failure is not None
    assert (run.failure.code, len(server.requests)) == ("model_input_refused", 0)


# ---- people ----


def gated(value: Any, saver: Any, times: int = 1, **told: Any) -> Any:
    """An agent whose graph interrupts itself with this, and says what it was answered."""

    def gate(state: Any) -> Any:
        return {"answers": [types.interrupt(value, **told) for _ in range(times)]}

    return from_langgraph(
        line(gate, state=Order, saver=saver),
        "gate",
        input=lambda turn: {"item": turn.text},
        answer=lambda state: json.dumps(state["answers"]),
    )


@asynchronous
async def test_an_interrupt_asks_the_user_and_goes_on_with_the_answer() -> None:
    saver = memory.InMemorySaver()
    made = gated({"question": "Sure?", "options": ["yes", "no"]}, saver)
    run = await run_agent(made, "Go", answers={"Sure?": "yes"})
    assert run.text == '["yes"]'
    assert run.questions[0].options == ("yes", "no")
    # A thread that only this turn knows is not kept.
    assert not saver.storage


@asynchronous
async def test_one_interrupt_after_the_other() -> None:
    answers = iter(["one", "two"])
    made = gated("What else?", memory.InMemorySaver(), times=2)
    run = await run_agent(made, "Go", answers=lambda question: next(answers))
    assert run.text == '["one", "two"]'


@asynchronous
async def test_a_schema_of_an_interrupt_is_the_question_s() -> None:
    schema = {"type": "integer", "minimum": 1}
    made = gated("How many?", memory.InMemorySaver(), response_schema=schema)
    run = await run_agent(made, "Go", answers={"How many?": 3})
    assert run.text == "[3]"
    assert run.questions[0].schema == schema


@asynchronous
async def test_interrupts_at_once_are_asked_at_once() -> None:
    def left(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage(f"left {types.interrupt('Left?')} ")]}

    def right(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage(f"right {types.interrupt('Right?')} ")]}

    graph = graphs.StateGraph(graphs.MessagesState)
    for node in (left, right):
        graph.add_node(node.__name__, node)
        graph.add_edge(graphs.START, node.__name__)
    made = from_langgraph(graph.compile(checkpointer=memory.InMemorySaver()), "both")
    run = await run_agent(made, "Go", answers={"Left?": "l", "Right?": "r"})
    assert sorted(run.text.split()) == ["l", "left", "r", "right"]


@asynchronous
@pytest.mark.parametrize(("answer", "decision"), [("approve", "approve"), ("deny", "reject")])
async def test_what_a_middleware_wants_to_be_approved_is_asked_call_by_call(
    answer: str, decision: str
) -> None:
    request = {"name": "refund", "args": {"amount": 5}, "description": "It is final."}
    value = {"action_requests": [request, {**request, "name": "ship"}], "review_configs": []}

    def answered(question: Question) -> str:
        assert question.options == ("approve", "deny")
        return answer

    run = await run_agent(gated(value, memory.InMemorySaver()), "Go", answers=answered)
    assert [question.text for question in run.questions] == [
        'May refund run with {"amount": 5}? It is final.',
        'May ship run with {"amount": 5}? It is final.',
    ]
    assert [each["type"] for each in json.loads(run.text)[0]["decisions"]] == [decision, decision]


@asynchronous
async def test_an_interrupt_that_nobody_answers_ends_the_turn() -> None:
    run = await run_agent(gated("Sure?", memory.InMemorySaver()), "Go", answers={"Sure?": DECLINED})
    assert run.failure is not None
    assert run.failure.code == "question_declined"


@asynchronous
async def test_an_interrupt_without_a_checkpointer_is_a_mistake_that_is_told() -> None:
    run = await run_agent(gated("Sure?", None), "Go")
    assert run.failure is not None
    assert run.failure.code == "agent_misconfigured"
    assert "compile(checkpointer=InMemorySaver())" in run.failure.message


@asynchronous
async def test_a_thread_of_its_author_s_is_kept() -> None:
    saver = memory.InMemorySaver()

    def count(state: Any) -> Any:
        return {"messages": [core_messages.AIMessage(f"{len(state['messages'])} ")]}

    made = from_langgraph(
        line(count, saver=saver),
        "counter",
        input=lambda turn: {"messages": [("user", turn.text)]},
        config=lambda turn: {"configurable": {"thread_id": turn.metadata["thread"]}},
    )
    texts = [(await run_agent(made, "Hi", metadata={"thread": thread})).text for thread in ("a", "a", "b")]
    assert texts == ["1 ", "3 ", "1 "]
    assert set(saver.storage) == {"a", "b"}


# ---- what goes wrong ----


@asynchronous
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(401, "wrong key sk-secret"), "model_key_refused"),
        (Status(429, "slow down", headers={"Retry-After": "7"}), "model_rate_limited"),
        (Status(503, "overloaded"), "model_unavailable"),
        (Status(400, "maximum context length", "context_length_exceeded"), "model_context_too_long"),
    ],
)
async def test_errors_of_the_model_have_a_code_and_the_status(
    server: ModelServer, status: Status, code: str
) -> None:
    server.then([status])
    run = await run_agent(from_langgraph(looping(model_of(server)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == (code, "model")
    assert run.failure.upstream_status == status.status
    assert run.failure.retry_after_s == (7 if status.status == 429 else None)
    assert "sk-secret" not in run.failure.message


@asynchronous
async def test_a_graph_without_an_end_has_one(server: ModelServer) -> None:
    server.then(calls(Call("double", ['{"a": 1}'])))
    made = from_langgraph(
        looping(model_of(server), [core_tools.tool(double)]),
        "ada",
        config=lambda turn: {"recursion_limit": 4},
    )
    run = await run_agent(made, "Hi")
    assert run.failure is not None
    assert run.failure.code == "rounds_spent"


@asynchronous
async def test_an_answer_that_breaks_off_is_the_model_s_failure(server: ModelServer) -> None:
    server.then(["half", Reset()])
    run = await run_agent(from_langgraph(looping(model_of(server)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == ("model_unreachable", "model")
    assert "after it had begun" in run.failure.message


@asynchronous
async def test_one_that_is_left_closes_the_model_s_connection(server: ModelServer) -> None:
    await closes_when_it_is_left(from_langgraph(looping(model_of(server)), "ada"), server)


@asynchronous
@pytest.mark.parametrize("before", [[], ["Well, "]])
async def test_a_stop_closes_the_model_s_connection(server: ModelServer, before: list[Step]) -> None:
    await closes_its_connection(from_langgraph(looping(model_of(server)), "ada"), server, *before)


def test_what_is_no_graph_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="not StateGraph; compile it first"):
        from_langgraph(graphs.StateGraph(graphs.MessagesState), "x")


# ---- all of it ----

FILE = """
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from commander.adapters import from_langgraph

model = ChatOpenAI(model="scripted", base_url="{base_url}", api_key="none", max_retries=0, stream_usage=True)


def build(tools):
    async def ask(state):
        return {{"messages": [await model.bind_tools(tools).ainvoke(state["messages"])]}}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")
    return graph.compile()


calculator = from_langgraph(build, "calculator", tools=["calculate"])
"""


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    server.then(script)
    async with served(tmp_path, FILE.format(base_url=server.base_url), "calculator") as conversation:
        await answers_fails_and_stops(conversation, "calculator", server)


def test_the_page_s_examples_run(tmp_path: Path) -> None:
    read(tmp_path, "A LangGraph graph")
