"""Admin: what an operator calls. Views are read from the core's state as it is; changes go through the hub."""

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import grpc
from southwest.ai.agent.v1 import admin_pb2, agent_pb2

from dispatcher.core.events import (
    CommanderDrainRequested,
    Declined,
    Draining,
    DrainRequested,
    Event,
    Reply,
    Selector,
    Stopped,
    StoppedMany,
    StopRequested,
    StopsRequested,
)
from dispatcher.core.fleet import Commander, SlotState
from dispatcher.core.packets import StopCode
from dispatcher.core.session import Session
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.journal.position import ending_is_kept
from dispatcher.limits import LiveLimits
from dispatcher.rpc import codec
from dispatcher.rpc.chat import ChatService
from dispatcher.rpc.methods import Answered, bounded, page, unary, watched
from dispatcher.rpc.views import agent_offer, listed_models, session_view
from dispatcher.settings import SettingsError
from dispatcher.tools.runner import ToolRunner

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
GRACE_S_MAX: Final = 3_600.0
DEADLINE_S_MAX: Final = 604_800.0
# Of a commander's sessions, in its view.
SESSION_IDS_MAX: Final = 1_000


class AdminService:
    """The service. `leave` is called once when the dispatcher is told to drain, with the deadline in seconds;
    `page_bytes_max` bounds a page of sessions besides their number."""

    def __init__(
        self,
        hub: Hub,
        chat: ChatService,
        tools: ToolRunner,
        limits: LiveLimits,
        mint: Callable[[str], str],
        leave: Callable[[float | None], None],
        page_bytes_max: int,
    ) -> None:
        self._hub = hub
        self._chat = chat
        self._tools = tools
        self._limits = limits
        self._mint = mint
        self._leave = leave
        self._page_bytes_max = page_bytes_max

    async def stop_session(
        self, request: admin_pb2.StopSessionRequest, context: Any
    ) -> admin_pb2.StopSessionResponse:
        if not request.session_id:
            raise Answered("INVALID_ARGUMENT", "session_id: is empty; name the session to stop")
        reply = await self._decided(
            StopRequested(
                request.session_id,
                self._mint("stop"),
                _stop_code(request.code),
                bounded("reason", request.reason) or "AdminStop",
                caller.get().actor or bounded("actor", request.actor),
                _grace_s(request),
            )
        )
        if isinstance(reply, Declined):
            raise Answered("NOT_FOUND", reply.message)
        assert isinstance(reply, Stopped)
        await _let_stops_go()
        result = admin_pb2.STOP_RESULT_ALREADY_ENDED if reply.already_ended else admin_pb2.STOP_RESULT_STOPPED
        return admin_pb2.StopSessionResponse(result=result, stop_id=reply.stop_id, ending=reply.ending)

    async def stop_sessions(
        self, request: admin_pb2.StopSessionsRequest, context: Any
    ) -> admin_pb2.StopSessionsResponse:
        selector = _selector(request.selector)
        if selector == Selector():
            raise Answered(
                "INVALID_ARGUMENT",
                "selector: says nothing; set user_id, agent, commander_id, labels, or all for every session",
            )
        reply = await self._decided(
            StopsRequested(
                selector,
                self._mint("stop"),
                _stop_code(request.code),
                bounded("reason", request.reason) or "AdminStop",
                caller.get().actor or bounded("actor", request.actor),
                _grace_s(request),
            )
        )
        assert isinstance(reply, StoppedMany)
        await _let_stops_go()
        return admin_pb2.StopSessionsResponse(stopped=len(reply.session_ids), session_ids=reply.session_ids)

    async def list_sessions(
        self, request: admin_pb2.ListSessionsRequest, context: Any
    ) -> admin_pb2.ListSessionsResponse:
        size = request.page_size or PAGE_DEFAULT
        if size > PAGE_MAX:
            raise Answered("INVALID_ARGUMENT", f"page_size: is {size}; at most {PAGE_MAX} is right")
        selector = _selector(request.selector)
        if selector == Selector():
            selector = Selector(everything=True)
        sessions = self._hub.router.selected(selector, ended=request.include_ended)[::-1]
        if request.page_token:
            # A page ends at a session; the next begins after it, also where it doesn't match any more.
            kept = list(self._hub.router.sessions)
            if request.page_token not in kept:
                raise Answered("INVALID_ARGUMENT", "page_token: its session is no longer kept; begin again")
            older = set(kept[: kept.index(request.page_token)])
            sessions = [session for session in sessions if session.session_id in older]
        views, _ = page(map(self._view, sessions[:size]), self._page_bytes_max)
        more = len(sessions) > len(views)
        return admin_pb2.ListSessionsResponse(
            sessions=views,
            next_page_token=views[-1].session_id if more else "",
        )

    async def get_session(
        self, request: admin_pb2.GetSessionRequest, context: Any
    ) -> admin_pb2.GetSessionResponse:
        if not request.session_id:
            raise Answered("INVALID_ARGUMENT", "session_id: is empty; name the session to see")
        session = self._hub.router.sessions.get(request.session_id)
        if session is None:
            raise Answered(
                "NOT_FOUND",
                f"session_id: there is no session {request.session_id!r}, or it is no longer kept",
            )
        return admin_pb2.GetSessionResponse(session=self._view(session))

    async def watch_session(self, request: admin_pb2.WatchSessionRequest, context: Any) -> None:
        cursor = request.cursor if request.HasField("cursor") else None
        await self._chat.show(context, request.session_id, cursor, thoughts=True)

    async def list_commanders(
        self, request: admin_pb2.ListCommandersRequest, context: Any
    ) -> admin_pb2.ListCommandersResponse:
        commanders = self._hub.router.fleet.commanders
        names = [name for name in sorted(commanders) if name > request.page_token]
        views, more = page((_commander(commanders[name]) for name in names), self._page_bytes_max)
        return admin_pb2.ListCommandersResponse(
            commanders=views, next_page_token=views[-1].commander_id if more else ""
        )

    async def drain_commander(
        self, request: admin_pb2.DrainCommanderRequest, context: Any
    ) -> admin_pb2.DrainCommanderResponse:
        deadline_s = _deadline_s(request)
        reply = await self._decided(
            CommanderDrainRequested(
                request.commander_id, bounded("reason", request.reason) or "AdminDrain", deadline_s
            )
        )
        if isinstance(reply, Declined):
            raise Answered("NOT_FOUND", reply.message)
        assert isinstance(reply, Draining)
        return admin_pb2.DrainCommanderResponse(running=reply.running)

    async def _decided(self, event: Event) -> Reply | None:
        """What came of it, once a restart can't undo that any more."""
        reply = self._hub.submit(event)
        if not (isinstance(reply, Declined) or self._is_old_news(reply)):
            await self._hub.kept()
        return reply

    def _is_old_news(self, reply: Reply | None) -> bool:
        return (
            isinstance(reply, Stopped)
            and reply.already_ended
            and ending_is_kept(self._hub.journal, reply.session_id)
        )

    async def drain(self, request: admin_pb2.DrainRequest, context: Any) -> admin_pb2.DrainResponse:
        deadline_s = _deadline_s(request)
        reply = self._hub.submit(DrainRequested(bounded("reason", request.reason) or "AdminDrain"))
        assert isinstance(reply, Draining)
        # At once: who is to be told may give up, and then it would take nothing more and never go.
        self._leave(deadline_s)
        await self._hub.kept()
        return admin_pb2.DrainResponse(running=reply.running)

    async def get_limits(
        self, request: admin_pb2.GetLimitsRequest, context: Any
    ) -> admin_pb2.GetLimitsResponse:
        return admin_pb2.GetLimitsResponse(limits=self._limit_views())

    async def set_limits(
        self, request: admin_pb2.SetLimitsRequest, context: Any
    ) -> admin_pb2.SetLimitsResponse:
        if not request.values and not request.modes:
            raise Answered("INVALID_ARGUMENT", "values: is empty, and so is modes; name a limit to change")
        try:
            self._limits.change(dict(request.values), dict(request.modes))
        except SettingsError as error:
            raise Answered("INVALID_ARGUMENT", str(error)) from None
        return admin_pb2.SetLimitsResponse(limits=self._limit_views())

    async def list_tools(
        self, request: admin_pb2.ListToolsRequest, context: Any
    ) -> admin_pb2.ListToolsResponse:
        stats = self._tools.stats()
        tools = []
        for offer in self._tools.offers():
            now = stats[offer.name]
            tools.append(
                admin_pb2.ToolView(
                    offer=agent_pb2.ToolOffer(
                        name=offer.name,
                        description=offer.description,
                        parameters_schema_json=offer.parameters_schema_json,
                    ),
                    running=now.running,
                    calls=now.calls,
                    timeout=codec.duration(now.timeout_s),
                    concurrency=now.concurrency,
                    output_bytes=now.output_bytes,
                    circuit_open=now.is_open,
                    source=now.source,
                    away=now.is_away,
                )
            )
        return admin_pb2.ListToolsResponse(tools=tools)

    def _view(self, session: Session) -> admin_pb2.SessionView:
        return session_view(session, self._hub.journal.epoch)

    def _limit_views(self) -> list[admin_pb2.Limit]:
        return [admin_pb2.Limit(**view._asdict()) for view in self._limits.view()]


def _commander(commander: Commander) -> admin_pb2.CommanderView:
    now = time.monotonic()
    view = admin_pb2.CommanderView(
        commander_id=commander.commander_id,
        instance=commander.instance,
        state=commander.state.value,
        software_version=commander.hello.software_version,
        agents=[agent_offer(offer) for offer in commander.hello.agents],
        labels=commander.hello.labels,
        slots=commander.hello.slots,
        slots_taken=len(commander.slots),
        slots_stopping=commander.count(SlotState.STOPPING),
        slots_stuck=commander.count(SlotState.STUCK) + commander.stuck_elsewhere,
        session_ids=[slot.session_id for slot in islice(commander.slots.values(), SESSION_IDS_MAX)],
        models=listed_models([commander.hello.models])[0],
    )
    if commander.blocked_for_s:
        view.blocked_for.CopyFrom(codec.duration(commander.blocked_for_s))
    if commander.link is not None:
        view.peer = commander.link.peer
        view.connected_for.CopyFrom(codec.duration(now - commander.link.opened_at))
        view.silent_for.CopyFrom(codec.duration(now - commander.link.heard_at))
    return view


def _selector(wire: admin_pb2.SessionSelector) -> Selector:
    if wire.all and len(wire.ListFields()) > 1:
        raise Answered(
            "INVALID_ARGUMENT",
            "selector.all: means every session; leave it out to select by what else is set",
        )
    for key, value in wire.labels.items():
        if not key or not value:
            raise Answered("INVALID_ARGUMENT", f"selector.labels[{key[:32]!r}]: key and value have to be set")
    return Selector(wire.user_id, wire.agent, wire.commander_id, dict(wire.labels), wire.all)


async def _let_stops_go() -> None:
    """First the ending, then the stop on its link, then the answer: an answer costs as much time as a stop."""
    await asyncio.sleep(0)


def _stop_code(number: int) -> StopCode:
    code = codec.STOP_CODES.get(number)
    if code is None:
        raise Answered("INVALID_ARGUMENT", f"code: {number} is not a StopCode")
    return code or "admin"  # type: ignore[return-value]  # the table's values are the literal's


def _grace_s(request: admin_pb2.StopSessionRequest | admin_pb2.StopSessionsRequest) -> float | None:
    if not request.HasField("grace"):
        return None
    grace_s = codec.seconds(request.grace)
    if not 0 <= grace_s <= GRACE_S_MAX:
        raise Answered("INVALID_ARGUMENT", f"grace: is {grace_s:g} s; 0 to {GRACE_S_MAX:g} s are right")
    return grace_s


def _deadline_s(request: admin_pb2.DrainRequest | admin_pb2.DrainCommanderRequest) -> float | None:
    if not request.HasField("deadline"):
        return None
    deadline_s = codec.seconds(request.deadline)
    if not 0 <= deadline_s <= DEADLINE_S_MAX:
        raise Answered(
            "INVALID_ARGUMENT", f"deadline: is {deadline_s:g} s; 0 to {DEADLINE_S_MAX:g} s are right"
        )
    return deadline_s


def handlers(service: AdminService) -> grpc.GenericRpcHandler:
    a = admin_pb2
    return grpc.method_handlers_generic_handler(
        admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
        {
            "StopSession": unary(a.StopSessionRequest, service.stop_session),
            "StopSessions": unary(a.StopSessionsRequest, service.stop_sessions),
            "ListSessions": unary(a.ListSessionsRequest, service.list_sessions),
            "GetSession": unary(a.GetSessionRequest, service.get_session),
            "WatchSession": watched(a.WatchSessionRequest, service.watch_session),
            "ListCommanders": unary(a.ListCommandersRequest, service.list_commanders),
            "DrainCommander": unary(a.DrainCommanderRequest, service.drain_commander),
            "Drain": unary(a.DrainRequest, service.drain),
            "GetLimits": unary(a.GetLimitsRequest, service.get_limits),
            "SetLimits": unary(a.SetLimitsRequest, service.set_limits),
            "ListTools": unary(a.ListToolsRequest, service.list_tools),
        },
    )
