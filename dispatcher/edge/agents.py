"""Agents over HTTP: what can be asked now."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.edge.operations import json_answer, operation
from dispatcher.edge.schemas import ref
from dispatcher.edge.sessions import answered
from dispatcher.hub import Hub
from dispatcher.record import plain
from dispatcher.rpc.views import agent_listings


class Agents:
    """The endpoint /v1/agents."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        return [Route("/v1/agents", self.list, methods=["GET"])]

    @operation(
        answers={
            200: json_answer(
                "The agents. None: no commander is linked.",
                {
                    "type": "object",
                    "required": ["agents"],
                    "properties": {"agents": {"type": "array", "items": ref("AgentListing")}},
                },
            )
        },
        tag="agents",
    )
    async def list(self, request: Request) -> Response:
        """The agents that can be asked now, by name and version, with how many slots are free for each."""
        listings = agent_listings(self._hub.router.fleet.commanders.values())
        return answered({"agents": [plain(listing) for listing in listings.values()]})
