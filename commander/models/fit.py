"""Whether an answer is JSON that fits its schema."""

import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from referencing.jsonschema import EMPTY_REGISTRY

TOLD_CHARS_MAX = 200


class Fit:
    """A JSON Schema. ValueError for what is none. Nothing is fetched, whatever a $ref says."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            raise ValueError(f"schema: is no JSON Schema: {error.message[:TOLD_CHARS_MAX]}") from None
        self._validator: Validator = kind(dict(schema), registry=EMPTY_REGISTRY)

    def value(self, text: str) -> Any:
        """The value of an answer. ValueError says what is wrong with it."""
        try:
            value: Any = json.loads(_bare(text))
        except ValueError as error:
            raise ValueError(f"the answer is no JSON: {error}") from None
        for wrong in self._validator.iter_errors(value):
            told = wrong.message[:TOLD_CHARS_MAX]
            raise ValueError(f"the answer does not fit the schema at {wrong.json_path}: {told}")
        return value


def _bare(text: str) -> str:
    """JSON without the fence that models like to put around it."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text
