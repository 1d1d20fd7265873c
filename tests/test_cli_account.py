"""What was received is what was sent: laws of `console.account`."""

import zlib

from console_server import EPOCH, Tale
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.account import Account

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=12)


def cursor(offset: int, epoch: str = EPOCH) -> chat_pb2.Cursor:
    return chat_pb2.Cursor(epoch=epoch, offset=offset)


@given(TEXTS)
def test_all_content_adds_up(texts: list[str]) -> None:
    tale, account = Tale(), Account()
    for event in (tale.opened(), *(tale.content(text) for text in texts), tale.ended()):
        assert account.take(event)
    whole = "".join(texts)
    assert (account.content_chars, account.content_crc32) == (len(whole), zlib.crc32(whole.encode()))
    assert account.over
    assert account.discrepancy() is None


@given(TEXTS, TEXTS, TEXTS)
def test_a_reset_discards_exactly_what_it_names(kept: list[str], lost: list[str], after: list[str]) -> None:
    tale, account = Tale(), Account()
    for text in kept:
        account.take(tale.content(text))
    mark = tale.offset
    for text in lost:
        account.take(tale.content(text))
    account.take(tale.event(reset=chat_pb2.Reset(discard_after=cursor(mark))))
    tale.text = "".join(kept)
    for text in after:
        account.take(tale.content(text))
    account.take(tale.ended())
    assert account.content_chars == len("".join(kept + after))
    assert account.discrepancy() is None


@given(TEXTS, st.randoms())
def test_a_repeat_counts_once(texts: list[str], random: "st.random.Random") -> None:  # type: ignore[name-defined]
    tale, account = Tale(), Account()
    told: list[chat_pb2.SessionEvent] = []
    for text in texts:
        told.append(tale.content(text))
        assert account.take(told[-1])
        assert not account.take(random.choice(told))
    account.take(tale.ended())
    assert account.discrepancy() is None


def test_a_difference_is_told_with_both_sides() -> None:
    tale, account = Tale(), Account()
    account.take(tale.content("abc"))
    account.take(tale.ended(content_chars=4, content_crc32=1))
    assert account.discrepancy() == (
        "3 characters with CRC-32 352441c2 arrived, but 4 with 00000001 were sent"
    )


def test_the_same_length_with_another_text_is_a_difference() -> None:
    tale, account = Tale(), Account()
    account.take(tale.content("abc"))
    tale.text = "abd"
    account.take(tale.ended())
    assert account.discrepancy() is not None


def test_who_came_later_has_nothing_to_compare() -> None:
    tale, account = Tale(), Account(cursor(1))
    tale.content("missed")
    assert not account.take(chat_pb2.SessionEvent(cursor=cursor(1)))
    account.take(tale.content("rest"))
    account.take(tale.ended())
    assert account.discrepancy() is None
    assert not account.lost


def test_a_gap_and_another_epoch_are_losses() -> None:
    tale, account = Tale(), Account()
    account.take(tale.content("a"))
    account.take(chat_pb2.SessionEvent(gap=chat_pb2.Gap(reason="trimmed")))
    assert account.lost
    account = Account()
    account.take(chat_pb2.SessionEvent(cursor=cursor(7)))
    assert account.take(chat_pb2.SessionEvent(cursor=cursor(1, "e2")))
    assert account.lost
    assert repr(account) == "<Account at e2:1, 0 characters, not whole>"


def test_an_event_without_a_cursor_moves_nothing() -> None:
    account = Account()
    account.take(chat_pb2.SessionEvent(cursor=cursor(7)))
    assert account.take(chat_pb2.SessionEvent())
    assert account.cursor == cursor(7)


def test_a_gap_to_the_first_event_is_whole_again() -> None:
    tale, account = Tale(), Account()
    account.take(tale.opened())
    account.take(tale.content("of a life that was not kept"))
    gap = chat_pb2.Gap(reason="ahead", requested=cursor(2), available_from=cursor(1))
    account.take(chat_pb2.SessionEvent(gap=gap))
    kept = Tale()
    for event in (kept.opened(), kept.content("kept"), kept.ended()):
        assert account.take(event)
    assert not account.lost
    assert account.discrepancy() is None
    assert account.content_chars == 4


def test_a_gap_behind_the_first_event_is_a_loss_and_what_follows_counts() -> None:
    tale, account = Tale(), Account()
    account.take(tale.content("a"))
    gap = chat_pb2.Gap(reason="trimmed", requested=cursor(1), available_from=cursor(5))
    account.take(chat_pb2.SessionEvent(gap=gap))
    assert (account.lost, account.gone, account.cursor) == (True, "", cursor(4))
    tale.offset = 4
    assert account.take(tale.content("b"))


def test_a_gap_that_leads_nowhere_says_why_nothing_follows() -> None:
    account = Account(cursor(7))
    gap = chat_pb2.Gap(reason="other_epoch", requested=cursor(7), available_from=cursor(0, "e2"))
    account.take(chat_pb2.SessionEvent(gap=gap))
    assert (account.lost, account.gone, account.cursor) == (True, "other_epoch", cursor(7))


def test_what_is_skipped_is_not_asked_for_again() -> None:
    account = Account()
    account.skip(cursor(3))
    account.skip(cursor(2))
    account.skip(cursor(9, "e2"))
    assert account.cursor == cursor(3)


def test_messages_that_nobody_read_come_back_with_their_text_also_after_a_reset() -> None:
    tale, account = Tale(), Account()
    for name in ("m-1", "m-2"):
        message = agent_pb2.UserMessage(message_id=name, text=f"text of {name}")
        account.take(tale.event(user_message=message))
    account.take(tale.event(reset=chat_pb2.Reset(discard_after=cursor(1))))
    account.take(tale.ended(unread_message_ids=["m-2", "m-9"]))
    assert account.unread == [("m-2", "text of m-2"), ("m-9", "")]
    assert account.resets == 1
