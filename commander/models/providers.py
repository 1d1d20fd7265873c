"""The providers that pydantic-ai knows, as far as that can be said before it is imported: their names, and the
variables that have their keys. A mistake in a table is told at the start, and not with the first request.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

# A test compares them with the library's.
NAMES: Final = frozenset(
    {
        *(
            "alibaba",
            "anthropic",
            "azure",
            "azure-responses",
            "bedrock",
            "bedrock-mantle",
            "cerebras",
            "cohere",
        ),
        *(
            "crusoe",
            "deepseek",
            "elevenlabs",
            "fireworks",
            "github",
            "github-copilot",
            "google",
            "google-cloud",
        ),
        *(
            "google-decisions",
            "groq",
            "heroku",
            "huggingface",
            "litellm",
            "meta",
            "mistral",
            "moonshotai",
            "nebius",
        ),
        *(
            "ollama",
            "openai",
            "openai-chat",
            "openai-chatgpt",
            "openai-codex",
            "openai-decisions",
            "openai-responses",
        ),
        *(
            "openrouter",
            "ovhcloud",
            "sambanova",
            "sentence-transformers",
            "snowflake",
            "system-one",
            "together",
        ),
        *("typesafe", "vercel", "vllm", "voyageai", "xai", "zai"),
    }
)
# One of them has to be set where a table has neither a base_url nor a key. Of others nothing is said.
_OPENAI: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": _OPENAI,
    "openai-chat": _OPENAI,
    "openai-responses": _OPENAI,
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "mistral": ("MISTRAL_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
}
_LIKENESS: Final = 0.8


def mistaken(provider: str, installed: Collection[str] = ()) -> str:
    """Why there is no such provider, where its name looks mistyped; else empty: newer libraries know more names."""
    known = {*NAMES, *installed}
    near = [] if provider in known else difflib.get_close_matches(provider, known, n=1, cutoff=_LIKENESS)
    return f"there is no provider {provider!r}; did you mean {near[0]}?" if near else ""


def keyless(provider: str, environ: Mapping[str, str]) -> str:
    """Why a table without a key and a base_url can't be used; else empty."""
    variables = USUAL.get(provider, ())
    if not variables or any(environ.get(name, "").strip() for name in variables):
        return ""
    told = f"the variable {variables[0]} is not set: set it, or name another by api_key_env"
    compatible = "a compatible server has a base_url; else " if provider == "openai-chat" else ""
    return compatible + told
