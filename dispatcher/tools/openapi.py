"""An OpenAPI document as operations that can be called: one JSON Schema for the arguments, and a request made of them.

Pure: bytes in, operations out; arguments in, a request out. Knows OpenAPI 3.0 and 3.1, JSON and YAML. Whatever of a
document can't be used costs the operation that needs it, with a sentence that says why.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from dispatcher.tools.contract import NAME_CHARS, ToolArgumentsError, ToolLoadError

METHODS: Final = ("get", "head", "post", "put", "patch", "delete")
# References within references; no honest schema goes deeper.
DEPTH_MAX: Final = 64
VALUES_MAX: Final = 50_000
_LOCAL: Final = "#/"
# What says nothing about values.
_IDLE: Final = frozenset({"example", "examples", "xml", "discriminator", "externalDocs"})
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Place:
    """Where one argument goes: `kind` is path, query or header; `name` is the document's."""

    kind: str
    name: str
    # A list as name=a&name=b rather than name=a,b; an object as name[key]=value.
    explodes: bool = True
    is_deep: bool = False


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
                path = path.replace(f"{{{place.name}}}", _segment(argument, value))
            elif place.kind == "header":
                headers[place.name] = _header(argument, value)
            else:
                query += _pairs(place, value)
        body = None
        if self.body_type and "body" in arguments:
            body = _body(self.body_type, arguments["body"])
            headers["Content-Type"] = self.body_type
        return Request(self.method, path + (f"?{urlencode(query)}" if query else ""), headers, body)


@dataclass
class Operations:
    """What a document has: operations, and what is wrong with those that can't be called."""

    server: str
    found: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(document: bytes, wanted: list[str]) -> Operations:
    """The operations that are wanted, by operationId or "GET /path"; all where none is named. Raises ToolLoadError
    where it is no OpenAPI document."""
    root = _parsed(document)
    version = str(root.get("openapi", ""))
    if not version.startswith("3.") or not isinstance(root.get("paths"), dict):
        raise ToolLoadError('it is no OpenAPI document of version 3: "openapi": "3…" and "paths" are needed')
    servers = root.get("servers")
    first = servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], dict) else {}
    operations = Operations(str(first.get("url", "")))
    names: list[str] = []
    for method, path, item, told in _listed(root["paths"]):
        name = str(told.get("operationId") or f"{method}{path}")
        label = f"{method.upper()} {path}"
        names.append(name)
        if wanted and name not in wanted and label not in wanted:
            continue
        try:
            operations.found.append(_Reading(root, version).operation(name, method, path, item, told))
        except ToolLoadError as error:
            operations.problems.append(f"operation {name!r}: {error}")
    labels = {f"{method.upper()} {path}" for method, path, _, _ in _listed(root["paths"])}
    missing = [each for each in wanted if each not in names and each not in labels]
    if missing:
        operations.problems.append(
            f"there is no operation {', '.join(missing)}; there are {', '.join(names[:20])}"
        )
    return operations


def _parsed(document: bytes) -> dict[str, Any]:
    try:
        root = json.loads(document)
    except (ValueError, RecursionError):
        root = _yaml(document)
    if not isinstance(root, dict):
        raise ToolLoadError("it is no OpenAPI document: an object is needed")
    return root


def _yaml(document: bytes) -> object:
    import yaml  # noqa: PLC0415 - of an extra, and most documents of machines are JSON

    try:
        return yaml.load(document, Loader=_plain_loader(yaml))  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ToolLoadError(f"it is neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from None


def _plain_loader(yaml: Any) -> Any:
    """JSON's values alone: a date stays the text that it is."""
    known = {
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return type("Plain", (yaml.SafeLoader,), {"yaml_implicit_resolvers": known})


def _listed(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    for path, item in paths.items():
        for method in METHODS:
            if isinstance(item, dict) and isinstance(item.get(method), dict):
                yield method, str(path), item, item[method]


class _Reading:
    """One operation, with the parts of the document that its schema refers to."""

    def __init__(self, root: Mapping[str, Any], version: str) -> None:
        self._root = root
        self._is_old = version.startswith("3.0")
        # Looked at so far: YAML's aliases can make a little text a great many.
        self._values = 0
        self._definitions: dict[str, object] = {}
        self._named: dict[str, str] = {}

    def operation(
        self, name: str, method: str, path: str, item: Mapping[str, Any], told: Mapping[str, Any]
    ) -> Operation:
        properties: dict[str, object] = {}
        required: list[str] = []
        places: dict[str, Place] = {}
        for parameter in self._parameters(item, told):
            if parameter["in"] == "cookie":
                if parameter.get("required"):
                    raise ToolLoadError(f"it needs the cookie {parameter['name']!r}, which can't be sent")
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
        if self._definitions:
            schema["$defs"] = self._definitions
        texts = [str(told.get(key) or "").strip() for key in ("summary", "description")]
        description = "\n".join(dict.fromkeys(filter(None, texts)))
        return Operation(_fit(name), description, method.upper(), path, schema, places, body_type)

    def _parameters(self, item: Mapping[str, Any], told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The path's, and the operation's own instead of those of the same place and name."""
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for each in (*_list(item.get("parameters")), *_list(told.get("parameters"))):
            parameter = self._followed(each)
            if parameter.get("in") not in ("path", "query", "header", "cookie") or not isinstance(
                parameter.get("name"), str
            ):
                raise ToolLoadError("a parameter of it has no name, or no place to go to")
            found[parameter["in"], parameter["name"]] = parameter
        return list(found.values())

    def _argument(self, parameter: Mapping[str, Any], taken: Mapping[str, object]) -> str:
        name = str(parameter["name"])
        return f"{parameter['in']}_{name}" if name in taken or name == "body" else name

    def _parameter_schema(self, parameter: Mapping[str, Any]) -> object:
        if "schema" in parameter:
            return self._schema(parameter["schema"])
        raise ToolLoadError(f"its parameter {parameter['name']!r} has no schema")

    def _described(self, schema: object, parameter: Mapping[str, Any]) -> object:
        text = parameter.get("description")
        if isinstance(schema, dict) and isinstance(text, str) and text and "$ref" not in schema:
            return {"description": text, **schema}
        return schema

    def _take_body(self, told: Mapping[str, Any], properties: dict[str, object], required: list[str]) -> str:
        if "requestBody" not in told:
            return ""
        body = self._followed(told["requestBody"])
        content = body.get("content")
        types = content if isinstance(content, dict) else {}
        chosen = next((each for each in types if _JSON.match(each)), None)
        chosen = chosen or next((each for each in types if each in (_FORM, "text/plain")), None)
        if chosen is None:
            if not body.get("required"):
                return ""
            raise ToolLoadError(
                f"its body is {', '.join(types) or 'nothing'}; JSON, a form or text can be sent"
            )
        media = types[chosen]
        properties["body"] = self._schema(media.get("schema", {}) if isinstance(media, dict) else {})
        if body.get("required"):
            required.append("body")
        return str(chosen)

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
            raise ToolLoadError(
                f"it refers to {str(reference)[:100]!r}; only parts of the same document are known"
            )
        found: object = self._root
        for step in reference.removeprefix(_LOCAL).split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise ToolLoadError(f"it refers to {reference[:100]!r}, which is not there")
            found = found[name]
        return found

    def _schema(self, told: object, depth: int = 0) -> object:
        """A copy that stands alone: what it refers to is among the definitions."""
        self._values += 1
        if depth > DEPTH_MAX or self._values > VALUES_MAX:
            raise ToolLoadError(
                f"its schema is nested more than {DEPTH_MAX} deep, or has over {VALUES_MAX:,} values"
            )
        if isinstance(told, list):
            return [self._schema(each, depth + 1) for each in told]
        if not isinstance(told, dict):
            return told
        if isinstance(told.get("$ref"), str):
            return {"$ref": f"#/$defs/{self._defined(told['$ref'])}"}
        copied = {
            str(key): self._keyword(key, value, depth) for key, value in told.items() if key not in _IDLE
        }
        return _of_old(copied) if self._is_old else copied

    def _keyword(self, key: str, value: object, depth: int) -> object:
        if key in ("enum", "const", "default"):
            return value
        if key in ("properties", "patternProperties", "$defs") and isinstance(value, dict):
            # The keys in here are names of somebody's, whatever keywords they look like.
            return {str(name): self._schema(each, depth + 1) for name, each in value.items()}
        return self._schema(value, depth + 1)

    def _defined(self, reference: str) -> str:
        if reference in self._named:
            return self._named[reference]
        name = _fit(reference.rpartition("/")[2])
        while name in self._definitions:
            name += "_"
        self._named[reference] = name
        # Before it is read: it may refer to itself.
        self._definitions[name] = {}
        self._definitions[name] = self._schema(self._at(reference))
        return name


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


def _fit(name: str) -> str:
    """A name that models take."""
    return re.sub(r"_+", "_", "".join(each if each in NAME_CHARS else "_" for each in name)).strip("_")


def _place(parameter: Mapping[str, Any]) -> Place:
    style = parameter.get("style", "form" if parameter["in"] == "query" else "simple")
    explodes = parameter.get("explode", style == "form")
    return Place(parameter["in"], parameter["name"], bool(explodes), style == "deepObject")


# --- arguments into a request ----------------------------------------------------------------------------


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _segment(argument: str, value: object) -> str:
    """One segment of a path: nothing in it can lead to another."""
    text = _text(value)
    if text in ("", ".", ".."):
        raise ToolArgumentsError(f"$.{argument}: {text!r} can't stand in a path; give a name or a number")
    return quote(text, safe="")


def _header(argument: str, value: object) -> str:
    text = _text(value)
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
    return [(place.name, _text(value))]


def _body(kind: str, value: object) -> bytes:
    if kind == _FORM:
        if not isinstance(value, dict):
            raise ToolArgumentsError("$.body: it is sent as a form; an object is needed")
        return urlencode([(key, _text(each)) for key, each in value.items()]).encode()
    if kind == "text/plain":
        return _text(value).encode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
