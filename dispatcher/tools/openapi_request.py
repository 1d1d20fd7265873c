"""An operation of an OpenAPI document, and arguments made into a request to it.

Pure: arguments in, a request out. Which operations there are is found by `openapi.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from dispatcher.tools.contract import ToolArgumentsError

FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Place:
    """Where one argument goes: `kind` is path, query or header; `name` is the document's."""

    kind: str
    name: str
    # In a query, a list as name=a&name=b rather than name=a,b; elsewhere, an object as key=value rather than key,value.
    explodes: bool = True
    # An object as name[key]=value.
    is_deep: bool = False
    # Between the items of a list that doesn't explode.
    joint: str = ","


@dataclass(frozen=True)
class Request:
    """What is to be sent. `target` is the path and the query, escaped."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True)
class Operation:
    """One that can be called."""

    # The document's name, and what is left of it that models take.
    told_name: str
    name: str
    description: str
    method: str
    path: str
    schema: Mapping[str, object]
    # By argument.
    places: Mapping[str, Place]
    # What the argument `body` is sent as; empty: there is none.
    body_type: str = ""

    @property
    def known_as(self) -> frozenset[str]:
        """What settings may call it."""
        return frozenset({self.told_name, self.name, f"{self.method} {self.path}"})

    @property
    def is_reading(self) -> bool:
        """To send it twice does no more than to send it once."""
        return self.method in ("GET", "HEAD")

    def request(self, arguments: Mapping[str, object]) -> Request:
        """Raises ToolArgumentsError for what fits the schema and no request."""
        path, query, headers = self.path, [], {"Accept": "application/json, text/*;q=0.9, */*;q=0.1"}
        for argument, place in self.places.items():
            if argument not in arguments:
                continue
            value = arguments[argument]
            if place.kind == "path":
                path = path.replace(f"{{{place.name}}}", _segment(argument, place, value))
            elif place.kind == "header":
                headers[place.name] = _header(argument, place, value)
            else:
                query += _pairs(place, value)
        body = None
        if self.body_type and "body" in arguments:
            body = _body(self.body_type, arguments["body"])
            headers["Content-Type"] = self.body_type
        return Request(self.method, path + (f"?{urlencode(query)}" if query else ""), headers, body)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _joined(place: Place, value: object) -> str:
    """A value as one text."""
    if isinstance(value, list):
        return place.joint.join(map(_text, value))
    if isinstance(value, dict):
        between = "=" if place.explodes else place.joint
        return place.joint.join(f"{key}{between}{_text(each)}" for key, each in value.items())
    return _text(value)


def _segment(argument: str, place: Place, value: object) -> str:
    """One segment of a path: nothing in it can lead to another."""
    text = _joined(place, value)
    if text in ("", ".", ".."):
        raise ToolArgumentsError(f"$.{argument}: {text!r} can't stand in a path; give a name or a number")
    return quote(text, safe="")


def _header(argument: str, place: Place, value: object) -> str:
    text = _joined(place, value)
    if not text.isascii() or not text.isprintable():
        raise ToolArgumentsError(f"$.{argument}: it goes into a header; printable ASCII is needed")
    return text


def _pairs(place: Place, value: object) -> list[tuple[str, str]]:
    if isinstance(value, list) and place.explodes:
        return [(place.name, _text(each)) for each in value]
    if isinstance(value, dict):
        if place.is_deep:
            return [(f"{place.name}[{key}]", _text(each)) for key, each in value.items()]
        if place.explodes:
            return [(key, _text(each)) for key, each in value.items()]
    return [(place.name, _joined(place, value))]


def _body(kind: str, value: object) -> bytes:
    if kind == FORM:
        if not isinstance(value, dict):
            raise ToolArgumentsError("$.body: it is sent as a form; an object is needed")
        whole = Place("query", "", explodes=False)
        return urlencode([(key, _joined(whole, each)) for key, each in value.items()]).encode()
    if kind == "text/plain":
        return _text(value).encode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
