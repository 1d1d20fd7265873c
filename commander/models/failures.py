"""The ways a language model gives no answer: what each means, what is done about it, and what to advise."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Traits:
    """What is done about a failure before the first token. After it, nothing is."""

    told: str
    advice: str
    # Asked again, after a while.
    is_retried: bool = False
    # The fallbacks are asked.
    falls_back: bool = False
    # The application may send the same request again later.
    is_retryable: bool = False
    # Counts against the provider, whose circuit it may open.
    opens: bool = False


def _passing(told: str, advice: str, *, opens: bool = True) -> Traits:
    return Traits(told, advice, is_retried=True, falls_back=True, is_retryable=True, opens=opens)


FAILURES: Final[dict[str, Traits]] = {
    "model_rate_limited": _passing(
        "The provider takes no more requests just now.", "ask again later", opens=False
    ),
    "model_unavailable": _passing("The provider failed: a status of 5xx, or overloaded.", "ask again later"),
    "model_unreachable": _passing(
        "No connection, or one that broke.", "look whether the server runs and base_url is right"
    ),
    "model_timeout": _passing(
        "No first token, or no further one, or no end within the limits.",
        "ask again later, or raise first_token_s, silence_s or whole_s",
    ),
    "model_busy": Traits(
        "As many requests as `concurrency` allows were under way for all of `first_token_s`.",
        "ask again later, or raise concurrency",
        falls_back=True,
        is_retryable=True,
    ),
    "model_circuit_open": Traits(
        "The provider failed again and again and is left alone for a while.",
        "ask again later",
        falls_back=True,
        is_retryable=True,
    ),
    "model_quota_exhausted": Traits(
        "The account has no credit left.", "top up the account at the provider", falls_back=True
    ),
    "model_key_refused": Traits(
        "The provider refuses the key.", "look at the key that api_key_env or api_key_file names"
    ),
    "model_unknown": Traits(
        "The provider knows no model of that name.", "look at the names in model and base_url"
    ),
    "model_context_too_long": Traits(
        "The conversation is longer than the model can read.", "send fewer or shorter messages"
    ),
    "model_content_filtered": Traits(
        "The provider's filter stopped the question or the answer.", "ask in other words"
    ),
    "model_malformed": Traits(
        "What came is no answer: broken off or not in the provider's format.",
        "look whether base_url is that of an API of this kind",
    ),
    "model_request_refused": Traits("The provider refuses the request as it is.", "see what it says"),
    "model_input_refused": Traits(
        "The model takes no input of this type.", "leave that part out, or ask a model that takes it"
    ),
    "model_schema_mismatch": Traits(
        "The answer does not fit the JSON Schema.", "ask again, or a stronger model"
    ),
    "model_budget_spent": Traits(
        "The turn has used all of the model's output tokens.", "raise output_tokens_max of the model"
    ),
    "model_not_configured": Traits("The commander can't make a connection of the table.", "see what it says"),
    "model_error": Traits("The provider reports an error of another kind.", "see what it says"),
}


class Trouble(Exception):  # noqa: N818 - named for what happened
    """What a provider raises: `code` is a key of `FAILURES`. Retries and fallbacks are not its business."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code if code in FAILURES else "model_error"
        self.message = message
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s

    @property
    def traits(self) -> Traits:
        return FAILURES[self.code]
