"""Language models in the commander: a registry that the settings name, and one adaptor over every provider.

    table.py     what `[models.NAME]` says, checked                words.py     what a provider is asked and says
    registry.py  the models there are; their connections            failures.py  how they fail, and what is done then
    speaking.py  one request: tries, limits, fallbacks              model.py, answer.py  what an agent holds of it
    adaptor.py, history.py, blame.py, connecting.py, refusals.py   pydantic-ai; imported when a model is first used

What a provider of somebody else's imports is here: see docs/models.md.
"""

from commander.models.failures import Trouble
from commander.models.words import (
    Ask,
    Connection,
    Finished,
    Item,
    Provider,
    Reasoning,
    Reply,
    Said,
    Secret,
    Sign,
    Text,
    Tokens,
    ToolCall,
    ToolReturn,
)

__all__ = [
    "Ask",
    "Connection",
    "Finished",
    "Item",
    "Provider",
    "Reasoning",
    "Reply",
    "Said",
    "Secret",
    "Sign",
    "Text",
    "Tokens",
    "ToolCall",
    "ToolReturn",
    "Trouble",
]
