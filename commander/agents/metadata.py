"""Reads what an application attached to a request: numbers as text, each with its bounds. Pure."""

import math
from collections.abc import Mapping

from commander.errors import AgentError


def number(metadata: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    """The number under `name`, or the default. AgentError names the key, what was wrong and what would be right."""
    told = metadata.get(name)
    if told is None:
        return default
    try:
        value = float(told)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise AgentError(
            f"metadata {name}: {told[:40]!r} should be a number from {least:.15g} to {most:.15g}",
            code="invalid_metadata",
        )
    return value
