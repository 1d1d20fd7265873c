"""What is said last: how a session ended or why there is none, what its user gets back, and what to do about it.

Owns these words and the exit status that goes with them. Called by `chat`, `watch` and `steer`.
"""

from typing import Final

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.account import Account
from dispatcher.console.escaping import safe_line
from dispatcher.console.outcome import Exit, exit_of
from dispatcher.console.view import RESET_MARK, View, error_text
from dispatcher.core.endings import ENDINGS, REFUSALS

# By name, as told on the wire; a newer dispatcher may have others. Nobody needs advice after these two.
_ADVICE: Final = {
    ending.value: traits.advice
    for ending, traits in ENDINGS.items()
    if ending.value not in ("completed", "stopped")
}
# The others say all that there is to be done in their message.
_ADVICE_REFUSED: Final = {
    refusal.value: traits.advice for refusal, traits in REFUSALS.items() if refusal.value != "invalid_request"
}


def conclude(account: Account, session_id: str, view: View) -> Exit:
    """Tells the ending, checks that all content arrived, and says which exit status that makes."""
    ended = account.ending
    view.notice(_ending_text(ended, session_id))
    advice = _ADVICE.get(ended.name)
    if advice:
        view.notice(f"what to do: {advice}")
    if account.resets:
        times = "once" if account.resets == 1 else f"{account.resets} times"
        view.notice(
            f"the answer began anew {times}: it is what follows the last `reset` event, "
            f"which on a page is the last line that begins with {RESET_MARK!r}"
        )
    for message_id, text in account.unread:
        view.notice(
            f"given back, as no agent has read it; ask again: {safe_line(text)}"
            if text
            else f"given back, as no agent has read it: message {message_id}, which was added before what was shown"
        )
    differs = account.discrepancy()
    if differs:
        view.notice(
            f"CONTENT DIFFERS: {differs}. What is shown above is not the answer; "
            f"`dispatcher watch {session_id}` shows it again"
        )
        return Exit.FAILED
    if account.lost:
        view.notice("CONTENT IS NOT WHOLE: part of it was no longer to be had")
        return Exit.FAILED
    return exit_of(ended.ending)


def _ending_text(ended: chat_pb2.SessionEnded, session_id: str) -> str:
    parts = [f"{ended.content_chars} characters"]
    if ended.usage.output_tokens:
        parts.append(f"{ended.usage.output_tokens} tokens")
    text = f"{ended.name}: session {session_id}, {', '.join(parts)}"
    by = f" by {ended.stop.actor}" if ended.stop.actor else ""
    # A limit and a pattern stop a session too, and its message names them; a person's stop has a person's reason.
    if ended.ending == chat_pb2.SESSION_ENDING_STOPPED and ended.HasField("stop"):
        text += f"; {ended.stop.reason}{by}"
    elif ended.HasField("error"):
        text += f"; {error_text(ended.error)}"
    elif ended.message and ended.ending != chat_pb2.SESSION_ENDING_COMPLETED:
        text += f"; {ended.message}"
    elif ended.HasField("stop"):
        text += f"; {ended.stop.reason}{by}"
    if ended.retryable:
        after = f" after {ended.retry_after_ms / 1000:g} s" if ended.retry_after_ms else ""
        text += f"; it may be tried again{after}"
    return text


def refusal_text(error: agent_pb2.ErrorSignal) -> str:
    """Why a request is not accepted, and what to do: the advice of the table, and when it may be tried again."""
    text = error_text(error)
    advice = _ADVICE_REFUSED.get(error.code, "").removesuffix(".").removesuffix(" when it says")
    if advice:
        text += f"; {advice[0].lower()}{advice[1:]}"  # a sentence in the table, and the rest of one here
    if error.retry_after_ms:
        text += "" if advice.endswith("try again") else "; try again"
        text += f" in {error.retry_after_ms / 1000:g} s"
    elif error.retryable and "try again" not in advice:
        text += "; try again later"
    return text
