"""An OpenAPI document as operations that can be called, each with one JSON Schema for its arguments.

Pure: bytes in, operations out. Knows OpenAPI 3.0 and 3.1. Whatever of a document can't be used costs the operation that
needs it, with a sentence that says why.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from dispatcher.tools.contract import NAME_CHARS, ToolLoadError, said
from dispatcher.tools.openapi_document import parsed
from dispatcher.tools.openapi_request import FORM, Operation, Place
from dispatcher.tools.schema import SOURCE_SCHEMA_BYTES_MAX

METHODS: Final = ("get", "head", "post", "put", "patch", "delete")
# References within references, and lists and objects in each other; no honest schema goes deeper.
DEPTH_MAX: Final = 64
# Values and characters that are read for all operations of a document: more than a message takes of all tools.
READ_MAX: Final = 4_194_304
DESCRIPTION_CHARS_MAX: Final = 4_096
_LOCAL: Final = "#/"
# What says nothing about values.
_IDLE: Final = frozenset({"example", "examples", "xml", "discriminator", "externalDocs"})
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What a request needs to be what it is, or says who sends it: the dispatcher's, whatever a document has of it.
_OWN_HEADERS: Final = frozenset(
    [
        *("accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-length"),
        *("content-type", "cookie", "expect", "host", "idempotency-key", "keep-alive", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    ]
)
# By place: the styles that are known, the first one where none is told, and what is between items.
_STYLES: Final[Mapping[str, Mapping[str, str]]] = {
    "query": {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|", "deepObject": ","},
    "path": {"simple": ","},
    "header": {"simple": ","},
}


@dataclass
class Operations:
    """What a document has: operations, and what is wrong with those that can't be called."""

    server: str
    found: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    # Asked for, and not read, because there are more than may be.
    left_out: int = 0


class _Allowance:
    """What may still be read: of one operation, and of all."""

    def __init__(self) -> None:
        self._all = READ_MAX
        self._one = 0

    def begin(self) -> None:
        """The next operation."""
        self._one = SOURCE_SCHEMA_BYTES_MAX

    def spend(self, size: int) -> None:
        """Raises ToolLoadError."""
        self._one -= size
        self._all -= size
        if self._one < 0:
            raise ToolLoadError(f"its schema is over {SOURCE_SCHEMA_BYTES_MAX:,} bytes of JSON")
        if self._all < 0:
            raise ToolLoadError(f"with it, the schemas of the document are over {READ_MAX:,} bytes of JSON")


def read(document: bytes, wanted: list[str], most: int, own_headers: Collection[str] = ()) -> Operations:
    """The first `most` operations that are wanted, by operationId or "GET /path"; of all where none is named.
    `own_headers` are the caller's: no argument goes there. Raises ToolLoadError where it is no OpenAPI document."""
    root = parsed(document)
    version = root.get("openapi")
    version = str(version) if isinstance(version, str | float) else ""
    if not version.startswith("3.") or not isinstance(root.get("paths"), dict):
        raise ToolLoadError('it is no OpenAPI document of version 3: "openapi": "3…" and "paths" are needed')
    servers = root.get("servers")
    first = servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], dict) else {}
    operations = Operations(_str(first.get("url")))
    kept = _OWN_HEADERS | {each.lower() for each in own_headers}
    allowance = _Allowance()
    names, labels = [], set()
    for method, path, item, told in _listed(root["paths"]):
        name = _str(told.get("operationId")) or f"{method}{path}"
        label = f"{method.upper()} {path}"
        names.append(name)
        labels.add(label)
        if wanted and name not in wanted and label not in wanted:
            continue
        if len(operations.found) >= most:
            operations.left_out += 1
            continue
        allowance.begin()
        try:
            reading = _Reading(root, version, allowance.spend, kept)
            operations.found.append(reading.operation(name, method, path, item, told))
        except ToolLoadError as error:
            operations.problems.append(f"operation {name[:100]!r}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a document has of others', the rest of it counts
            operations.problems.append(f"operation {name[:100]!r}: it can't be read: {said(error)[:200]}")
    missing = [each for each in wanted if each not in names and each not in labels]
    if missing:
        some = ", ".join(each[:100] for each in names[:20])
        operations.problems.append(f"there is no operation {', '.join(missing)}; there are {some}")
    return operations


def _listed(paths: Mapping[Any, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    for path, item in paths.items():
        for method in METHODS:
            if isinstance(path, str) and isinstance(item, dict) and isinstance(item.get(method), dict):
                yield method, path, item, item[method]


class _Reading:
    """One operation, with the parts of the document that its schema refers to. `spend` is told what is read, and may
    say that it is too much."""

    def __init__(
        self,
        root: Mapping[str, Any],
        version: str,
        spend: Callable[[int], None],
        own_headers: Collection[str],
    ) -> None:
        self._root = root
        self._is_old = version.startswith("3.0")
        self._spend = spend
        self._own_headers = own_headers
        self._definitions: dict[str, object] = {}
        self._named: dict[str, str] = {}
        # Named, and not yet read: name and reference. One after the other, however long the chain of them is.
        self._undefined: list[tuple[str, str]] = []

    def operation(
        self, name: str, method: str, path: str, item: Mapping[str, Any], told: Mapping[str, Any]
    ) -> Operation:
        properties: dict[str, object] = {}
        required: list[str] = []
        places: dict[str, Place] = {}
        for parameter in self._parameters(item, told):
            if not self._can_be_sent(parameter):
                continue
            argument = self._argument(parameter, properties)
            properties[argument] = self._described(self._parameter_schema(parameter), parameter)
            places[argument] = _place(parameter)
            if parameter.get("required") or parameter["in"] == "path":
                required.append(argument)
        body_type = self._take_body(told, properties, required)
        missing = set(re.findall(r"{([^{}]*)}", path)) - {p.name for p in places.values() if p.kind == "path"}
        if missing:
            raise ToolLoadError(f"its path has {{{min(missing)}}}, which is no parameter of it")
        schema: dict[str, object] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
        self._define()
        if self._definitions:
            schema["$defs"] = self._definitions
        texts = [_str(told.get(key))[:DESCRIPTION_CHARS_MAX].strip() for key in ("summary", "description")]
        description = "\n".join(dict.fromkeys(filter(None, texts)))[:DESCRIPTION_CHARS_MAX]
        return Operation(name, _fit(name), description, method.upper(), path, schema, places, body_type)

    def _parameters(self, item: Mapping[str, Any], told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The path's, and the operation's own instead of those of the same place and name."""
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for each in (*_list(item.get("parameters")), *_list(told.get("parameters"))):
            self._spend(1)
            parameter = self._followed(each)
            if parameter.get("in") not in ("path", "query", "header", "cookie") or not isinstance(
                parameter.get("name"), str
            ):
                raise ToolLoadError("a parameter of it has no name, or no place to go to")
            found[parameter["in"], parameter["name"]] = parameter
        return list(found.values())

    def _can_be_sent(self, parameter: Mapping[str, Any]) -> bool:
        """Whether it is an argument. Raises ToolLoadError for one that is needed and can't be sent."""
        name, where = parameter["name"], parameter["in"]
        if where == "header" and name.lower() in self._own_headers:
            return False
        if where == "cookie" or (where == "header" and not _TOKEN.fullmatch(name)):
            if parameter.get("required"):
                raise ToolLoadError(f"it needs the {where} {name[:100]!r}, which can't be sent")
            return False
        return True

    def _argument(self, parameter: Mapping[str, Any], taken: Mapping[str, object]) -> str:
        name = str(parameter["name"])
        self._spend(len(name))
        return f"{parameter['in']}_{name}" if name in taken or name == "body" else name

    def _parameter_schema(self, parameter: Mapping[str, Any]) -> object:
        if "schema" in parameter:
            return self._schema(parameter["schema"])
        raise ToolLoadError(f"its parameter {parameter['name'][:100]!r} has no schema")

    def _described(self, schema: object, parameter: Mapping[str, Any]) -> object:
        text = _str(parameter.get("description"))
        if isinstance(schema, dict) and text and "$ref" not in schema:
            self._spend(len(text))
            return {"description": text, **schema}
        return schema

    def _take_body(self, told: Mapping[str, Any], properties: dict[str, object], required: list[str]) -> str:
        if "requestBody" not in told:
            return ""
        body = self._followed(told["requestBody"])
        content = body.get("content")
        types = [each for each in content if isinstance(each, str)] if isinstance(content, dict) else []
        chosen = next((each for each in types if _JSON.match(each)), None)
        chosen = chosen or next((each for each in types if each in (FORM, "text/plain")), None)
        if chosen is None:
            if not body.get("required"):
                return ""
            some = ", ".join(each[:100] for each in types[:10]) or "nothing"
            raise ToolLoadError(f"its body is {some}; JSON, a form or text can be sent")
        media = content[chosen] if isinstance(content, dict) else None
        properties["body"] = self._schema(media.get("schema", {}) if isinstance(media, dict) else {})
        if body.get("required"):
            required.append("body")
        return chosen

    # --- references --------------------------------------------------------------------------------------

    def _followed(self, told: object) -> Mapping[str, Any]:
        """An object of the document, wherever references lead."""
        for _ in range(DEPTH_MAX):
            if not isinstance(told, dict):
                break
            if "$ref" not in told:
                return told
            told = self._at(told["$ref"])
        raise ToolLoadError("a reference of it leads to nothing")

    def _at(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith(_LOCAL):
            shown = reference[:100] if isinstance(reference, str) else type(reference).__name__
            raise ToolLoadError(f"it refers to {shown!r}; only parts of the same document are known")
        found: object = self._root
        for step in reference.removeprefix(_LOCAL).split("/"):
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and re.fullmatch("[0-9]{1,9}", name) and int(name) < len(found):
                found = found[int(name)]
            else:
                raise ToolLoadError(f"it refers to {reference[:100]!r}, which is not there")
        return found

    def _schema(self, told: object, depth: int = 0) -> object:
        """A copy that stands alone: what it refers to is among the definitions."""
        if isinstance(told, dict) and isinstance(told.get("$ref"), str):
            return {"$ref": f"#/$defs/{self._defined(told['$ref'])}"}
        if not isinstance(told, dict):
            return self._copied(told, depth, self._schema)
        kept = {key: value for key, value in told.items() if key not in _IDLE}
        copied: dict[str, object] = {}
        self._enter(kept, depth)
        for key, value in kept.items():
            copied[str(key)] = self._keyword(key, value, depth)
        return _of_old(copied) if self._is_old else copied

    def _keyword(self, key: object, value: object, depth: int) -> object:
        if key in ("enum", "const", "default"):
            return self._value(value, depth + 1)
        if key in ("properties", "patternProperties", "$defs") and isinstance(value, dict):
            # The keys in here are names of somebody's, whatever keywords they look like.
            return self._copied(value, depth + 1, self._schema)
        return self._schema(value, depth + 1)

    def _value(self, told: object, depth: int) -> object:
        """A copy of what is no schema."""
        return self._copied(told, depth, self._value)

    def _copied(self, told: object, depth: int, each: Callable[[object, int], object]) -> object:
        self._enter(told, depth)
        if isinstance(told, list):
            return [each(item, depth + 1) for item in told]
        if isinstance(told, dict):
            return {str(name): each(item, depth + 1) for name, item in told.items()}
        return told

    def _enter(self, told: object, depth: int) -> None:
        """Raises ToolLoadError where it is too deep or too much."""
        if depth > DEPTH_MAX:
            raise ToolLoadError(f"its schema is nested more than {DEPTH_MAX} deep")
        self._spend(1 + len(told) if isinstance(told, str) else 1)
        if isinstance(told, dict):
            self._spend(sum(len(key) if isinstance(key, str) else 1 for key in told))

    def _defined(self, reference: str) -> str:
        if reference in self._named:
            return self._named[reference]
        name = _fit(reference.rpartition("/")[2][:100])
        while name in self._definitions:
            name += "_"
        self._named[reference] = name
        self._definitions[name] = {}
        self._undefined.append((name, reference))
        return name

    def _define(self) -> None:
        while self._undefined:
            name, reference = self._undefined.pop()
            self._definitions[name] = self._schema(self._at(reference))


def _of_old(schema: dict[str, object]) -> dict[str, object]:
    """A schema of OpenAPI 3.0 in the words of 3.1, which are those of JSON Schema."""
    if schema.pop("nullable", None) is True:
        kind = schema.get("type")
        if isinstance(kind, str):
            schema["type"] = [kind, "null"]
        if isinstance(values := schema.get("enum"), list) and None not in values:
            schema["enum"] = [*values, None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    return schema


def _list(told: object) -> list[Any]:
    return told if isinstance(told, list) else []


def _str(told: object) -> str:
    return told if isinstance(told, str) else ""


def _fit(name: str) -> str:
    """A name that models take."""
    return re.sub(r"_+", "_", "".join(each if each in NAME_CHARS else "_" for each in name)).strip("_")


def _place(parameter: Mapping[str, Any]) -> Place:
    """Raises ToolLoadError for a way of writing that is not known."""
    where, styles = parameter["in"], _STYLES[parameter["in"]]
    style = parameter.get("style", next(iter(styles)))
    if style not in styles:
        told = f"its parameter {parameter['name'][:100]!r} is of style {str(style)[:100]!r}"
        raise ToolLoadError(f"{told}; {' or '.join(styles)} can be sent in a {where}")
    explodes = bool(parameter.get("explode", style == "form"))
    return Place(where, parameter["name"], explodes, style == "deepObject", styles[style])
