"""Agents over HTTP: who can be asked, and how much room they have."""

from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import browsing, opened

DISPATCHER_FLAGS = ("--http-address", "127.0.0.1:0")


@asynchronous
async def test_agents_are_listed_with_their_versions_and_their_free_slots(
    dispatcher: DispatcherProcess,
) -> None:
    agent, other = unique("a-agent"), unique("b-agent")
    offers = [
        agent_pb2.AgentOffer(name=agent, version="2", description="Counts.", accepted_input=["text/plain"])
    ]
    async with browsing(dispatcher.url) as client:
        assert (await client.get("/v1/agents")).json() == {"agents": []}
    async with (
        linked(dispatcher.address, other, agent, slots=3) as one,
        linked(dispatcher.address, agents=offers, slots=5),
        browsing(dispatcher.url) as client,
    ):
        await opened(client, other)
        await one.started()
        response = await client.get("/v1/agents")
        assert response.headers["cache-control"] == "no-store"
        told = [
            (
                each["offer"]["name"],
                each["offer"]["version"],
                each["commanders"],
                each["slots"],
                each["slots_free"],
            )
            for each in response.json()["agents"]
        ]
        assert told == [(agent, "", 1, 3, 2), (agent, "2", 1, 5, 5), (other, "", 1, 3, 2)]
        second = response.json()["agents"][1]["offer"]
        assert second["description"] == "Counts."
        assert second["accepted_input"] == ["text/plain"]


@asynchronous
async def test_models_are_listed_with_the_agents_that_may_use_them(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    models = [
        agent_pb2.ModelOffer(name="fast", model="openai-chat:qwen3", takes_images=True, calls_tools=False),
        agent_pb2.ModelOffer(name="deep"),
    ]
    async with linked(dispatcher.address, agent, models=models), browsing(dispatcher.url) as client:
        agents = (await client.get("/v1/agents")).json()["agents"]
        (listed,) = (each for each in agents if each["offer"]["name"] == agent)
    unknown = dict.fromkeys(
        ("takes_images", "takes_files", "calls_tools", "structured_output", "shows_reasoning")
    )
    assert listed["models"] == [
        {"name": "deep", "model": "", **unknown},
        {
            "name": "fast",
            "model": "openai-chat:qwen3",
            **unknown,
            "takes_images": True,
            "calls_tools": False,
        },
    ]
    assert listed["models_left_out"] == 0
