"""What is taken from an outbox is what was offered: merged and cut, and never more than a packet."""

from hypothesis import given
from hypothesis import strategies as st

from commander.core.outbox import Outbox, Sealed, Series, Text, cut_utf8, utf8_size

PACKET_BYTES_MAX = 16

STEPS = st.sampled_from([None, "plan", "näher"])
PATHS = st.sampled_from(["", "team/insight"])
TEXTS = st.text(min_size=1, max_size=40)
ITEMS = st.one_of(
    TEXTS,
    st.builds(Text, TEXTS, STEPS, PATHS),
    st.builds(Sealed, st.integers(), st.integers(1, 50)),
    st.integers(1, 4).map(lambda pieces: Series(iter([Sealed("piece", 5)] * pieces), 5 * pieces)),
)

Atom = tuple[str, str | None, str]


def outbox(packets_max: int = 4, bytes_max: int = 64) -> Outbox:
    return Outbox(packets_max=packets_max, bytes_max=bytes_max, packet_bytes_max=PACKET_BYTES_MAX)


def offer(box: Outbox, item: str | Text | Sealed | Series) -> bool:
    return box.offer_text(item) if isinstance(item, str) else box.offer(item)


def atoms(item: object) -> list[Atom | object]:
    """Code point by code point, each with what it belongs to; anything sealed as it is."""
    match item:
        case str():
            return [(each, None, "") for each in item]
        case Text(text, step, path):
            return [(each, step, path) for each in text]
        case Series(_, size_bytes):
            return ["piece"] * (size_bytes // 5)
        case Sealed("piece"):
            return ["piece"]
    return [item]


@given(st.lists(st.one_of(ITEMS.map(lambda item: ("offer", item)), st.just(("take", None)))))
def test_what_is_taken_is_what_was_offered(steps: list[tuple[str, object]]) -> None:
    box = outbox()
    offered: list[object] = []
    taken: list[object] = []
    for step, item in steps:
        if step == "offer":
            assert isinstance(item, str | Text | Sealed | Series)
            offered += atoms(item)
            offer(box, item)
        elif (packet := box.take()) is not None:
            taken += atoms(packet)
    while (packet := box.take()) is not None:
        taken += atoms(packet)
    assert taken == offered
    assert not box
    assert box.waiting_bytes == 0


@given(st.lists(ITEMS))
def test_a_text_never_outgrows_its_packet(items: list[str | Text | Sealed | Series]) -> None:
    box = outbox()
    for item in items:
        offer(box, item)
    while (packet := box.take()) is not None:
        if isinstance(packet, Text):
            assert utf8_size(packet.text) + utf8_size(packet.step or "") <= PACKET_BYTES_MAX
            assert packet.text


@given(st.text(), st.integers(0, 20), st.integers(4, 20))
def test_a_cut_falls_between_code_points(text: str, start: int, bytes_max: int) -> None:
    piece = cut_utf8(text, start, bytes_max)
    assert text[start:].startswith(piece)
    assert utf8_size(piece) <= bytes_max
    rest = text[start + len(piece) :]
    assert not rest or utf8_size(piece + rest[0]) > bytes_max


def test_neighbours_of_one_kind_become_one_packet() -> None:
    box = outbox()
    for item in ("a", "b", Text("c", "plan"), Text("d", "plan"), Text("e", "plan", "sub"), "f", "g"):
        offer(box, item)
    taken = list(iter(box.take, None))
    assert taken == [Text("ab"), Text("cd", "plan"), Text("e", "plan", "sub"), Text("fg")]


def test_what_lies_between_keeps_its_place() -> None:
    box = outbox()
    call = Sealed("call", 3)
    for item in ("a", call, "b"):
        offer(box, item)
    assert list(iter(box.take, None)) == [Text("a"), call, Text("b")]


def test_it_says_when_it_is_full_and_keeps_what_is_offered_all_the_same() -> None:
    box = outbox(packets_max=2)
    assert box.offer_text("a")
    assert not box.offer_text("b")
    assert not box.offer_text("c")
    assert box.take() == Text("abc")
    assert box.has_room
    assert box.is_half_empty


def test_it_is_full_by_bytes_too() -> None:
    box = outbox(bytes_max=8)
    assert box.offer_text("1234567")
    assert not box.offer_text("é")
    assert box.waiting_bytes == 9


def test_a_long_text_makes_room_piece_by_piece() -> None:
    box = outbox(bytes_max=64)
    assert not box.offer_text("x" * 100)
    assert box.take() == Text("x" * PACKET_BYTES_MAX)
    assert box.waiting_bytes == 100 - PACKET_BYTES_MAX
    box.take()
    box.take()
    assert box.has_room


def test_cleared_it_is_empty() -> None:
    box = outbox()
    for item in ("x" * 100, Series(iter([Sealed("piece", 5)] * 3), 15), "y"):
        offer(box, item)
    box.take()
    box.clear()
    assert not box
    assert box.take() is None
    assert box.has_room
