"""Sessions and agents as whoever asks for them sees them. Read from the core's state as it is."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final, TypeAlias

from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.core.fleet import Commander, CommanderState
from dispatcher.core.packets import ModelOffer
from dispatcher.core.session import Session
from dispatcher.rpc import codec

# What a question may take in a view, before it is shortened, and then its text.
_QUESTION_BYTES_MAX: Final = 16_384
_QUESTION_CHARS_MAX: Final = 1_000
# Of an agent: as many as one commander may have.
MODELS_MAX: Final = codec.MODELS_MAX

Models: TypeAlias = "tuple[ModelOffer, ...]"
# By name, and how many there are beyond them.
Listed: TypeAlias = "tuple[list[agent_pb2.ModelOffer], int]"


def session_view(session: Session, epoch: str) -> admin_pb2.SessionView:
    """As it stands now; `epoch` is the journal's."""
    now = time.monotonic()
    view = admin_pb2.SessionView(
        session_id=session.session_id,
        state=session.state.value,
        agent=session.agent,
        user_id=session.user_id,
        labels=session.labels,
        commander_id=session.commander_id,
        attempt=session.attempt,
        phase=_phase(session),  # type: ignore[arg-type]  # the wire's own number, kept as it came
        age=codec.duration((session.ended_at or now) - session.opened_at),
        ended_ago=None if session.live else codec.duration(now - session.ended_at),
        cursor=chat_pb2.Cursor(epoch=epoch, offset=session.offset),
        content_chars=session.content_chars,
        thought_chars=session.thought_chars,
        tool_calls=session.tool_calls,
        tool_calls_running=session.ledger.running,
        usage=codec.usage(session.usage),
        viewers=session.viewers,
        parent_session_id=session.delegated.session_id if session.delegated is not None else "",
    )
    for question in session.open_questions.values():
        assert isinstance(question.body, bytes)
        shown = view.open_questions.add()
        shown.MergeFromString(question.body)
        _shorten(shown)
    if isinstance(session.progress, bytes):
        view.progress.MergeFromString(session.progress)
    if session.ended is not None:
        view.ended.CopyFrom(codec.session_ended(session.ended))
    return view


def _phase(session: Session) -> int:
    """What it waits for: as its commander last said, or, before that, as what is open here tells."""
    if session.phase or not session.live:
        return session.phase
    if session.questions:
        return agent_pb2.HEARTBEAT_PHASE_WAITING_ANSWER
    return agent_pb2.HEARTBEAT_PHASE_WAITING_TOOL if session.ledger.running else 0


def _shorten(question: agent_pb2.Question) -> None:
    """Leaves of a long question enough to know it by: a view is one message, whatever is asked in it."""
    if question.ByteSize() > _QUESTION_BYTES_MAX:
        text = question.text
        question.text = text if len(text) <= _QUESTION_CHARS_MAX else text[:_QUESTION_CHARS_MAX] + " …"
        del question.options[:]
        question.response_schema_json = ""


def agent_listings(commanders: Collection[Commander]) -> dict[tuple[str, str], chat_pb2.AgentListing]:
    """The agents that can be asked now, in the order of their names and versions."""
    listings: dict[tuple[str, str], chat_pb2.AgentListing] = {}
    for commander in commanders:
        for offer in commander.hello.agents:
            listing = listings.get((offer.name, offer.version))
            if listing is None:
                listing = listings[offer.name, offer.version] = chat_pb2.AgentListing(
                    offer=agent_offer(offer)
                )
            listing.commanders += 1
            if commander.state is CommanderState.READY:
                listing.slots += commander.hello.slots
                listing.slots_free += commander.free
    models = ModelsTold(commanders)
    for key, listing in listings.items():
        listed, listing.models_left_out = models.of(key)
        listing.models.extend(listed)
    return {key: listings[key] for key in sorted(listings)}


class ModelsTold:
    """What commanders say of their models, by the agents that they serve: made of a fleet as it stands."""

    def __init__(self, commanders: Iterable[Commander]) -> None:
        # Most commanders have the same models, and most agents the same commanders: each list is looked at once, and
        # each set of lists.
        lists: dict[Models, Models] = {}
        self._told: defaultdict[tuple[str, str], dict[int, Models]] = defaultdict(dict)
        self._listed: dict[frozenset[int], Listed] = {}
        for commander in commanders:
            models = lists.setdefault(commander.hello.models, commander.hello.models)
            for offer in commander.hello.agents:
                self._told[offer.name, offer.version][id(models)] = models

    def of(self, *agents: tuple[str, str]) -> Listed:
        """The models of all that serve one of these agents, each by name and version."""
        told = {key: models for agent in agents for key, models in self._told[agent].items()}
        lists = frozenset(told)
        if lists not in self._listed:
            self._listed[lists] = listed_models(told.values())
        return self._listed[lists]


def listed_models(told: Iterable[Models]) -> Listed:
    """The models of several commanders, by name; and how many there are beyond those."""
    models: dict[str, ModelOffer] = {}
    for each in told:
        for offer in each:
            known = models.setdefault(offer.name, offer)
            if known is not offer and known != offer:
                models[offer.name] = _agreed(known, offer)
    names = sorted(models)
    return [model_offer(models[name]) for name in names[:MODELS_MAX]], max(0, len(names) - MODELS_MAX)


def _agreed(one: ModelOffer, other: ModelOffer) -> ModelOffer:
    """What both say. Of what they tell differently nothing is known."""
    return ModelOffer(
        one.name,
        one.model if one.model == other.model else "",
        _same(one.takes_images, other.takes_images),
        _same(one.takes_files, other.takes_files),
        _same(one.calls_tools, other.calls_tools),
        _same(one.structured_output, other.structured_output),
        _same(one.shows_reasoning, other.shows_reasoning),
    )


def _same(one: bool | None, other: bool | None) -> bool | None:
    return one if one is other else None


def model_offer(offer: ModelOffer) -> agent_pb2.ModelOffer:
    return agent_pb2.ModelOffer(
        name=offer.name,
        model=offer.model,
        takes_images=offer.takes_images,
        takes_files=offer.takes_files,
        calls_tools=offer.calls_tools,
        structured_output=offer.structured_output,
        shows_reasoning=offer.shows_reasoning,
    )


def agent_offer(offer: Any) -> agent_pb2.AgentOffer:
    return agent_pb2.AgentOffer(
        name=offer.name,
        version=offer.version,
        description=offer.description,
        accepted_input=offer.accepted_input,
        on_restart=codec.ON_RESTART_NUMBERS[offer.on_restart],
    )
