"""Whether it lives, and whether it takes more: for balancers and supervisors, who have no token."""

from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dispatcher.edge.operations import TEXT, Answer, operation

_PLAIN: Final = {"text/plain": TEXT}


class Health:
    """`/healthz` as long as the loop turns; `/readyz` until the dispatcher is to go."""

    def __init__(self) -> None:
        self._is_leaving = False

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.lives, methods=["GET"]),
            Route("/readyz", self.is_ready, methods=["GET"]),
        ]

    async def leave(self) -> None:
        self._is_leaving = True

    @operation(answers={200: Answer("The loop turns.", _PLAIN)}, tag="health")
    async def lives(self, _: Request) -> Response:
        """Whether the dispatcher lives."""
        return PlainTextResponse("ok\n")

    @operation(answers={200: Answer("It is.", _PLAIN), 503: Answer("It leaves.", _PLAIN)}, tag="health")
    async def is_ready(self, _: Request) -> Response:
        """Whether the dispatcher takes more."""
        return PlainTextResponse("leaving\n", 503) if self._is_leaving else PlainTextResponse("ready\n")
