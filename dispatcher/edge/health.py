"""Whether it lives, and whether it takes more: for balancers and supervisors, who have no token."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


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

    async def lives(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def is_ready(self, _: Request) -> Response:
        return PlainTextResponse("leaving\n", 503) if self._is_leaving else PlainTextResponse("ready\n")
