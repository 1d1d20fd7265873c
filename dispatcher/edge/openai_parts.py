"""Content of messages as OpenAI's APIs have it, as parts of ours. Whatever is wrong with it names its field."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from pydantic import JsonValue
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.edge.problems import ProblemError

_AUDIO: Final = {"mp3": "audio/mpeg", "wav": "audio/wav"}
ROLES: Final = {
    "system": agent_pb2.ROLE_SYSTEM,
    "developer": agent_pb2.ROLE_SYSTEM,
    "user": agent_pb2.ROLE_USER,
    "assistant": agent_pb2.ROLE_ASSISTANT,
    "tool": agent_pb2.ROLE_TOOL,
}


def wrong(field: str, told: str) -> ProblemError:
    return ProblemError("invalid_request", f"{field}: {told}", field=field)


def json_text(field: str, value: JsonValue) -> str:
    """Raises ProblemError for numbers that are none in JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise wrong(field, "has a number that is no JSON") from None


def parts(field: str, content: JsonValue) -> Iterable[agent_pb2.ContentPart]:
    """Of a text, or of a list of parts. Raises ProblemError."""
    if isinstance(content, str):
        return [agent_pb2.ContentPart(text=content)]
    if not isinstance(content, list):
        raise wrong(field, "should be a text or a list of parts")
    return [_part(f"{field}[{number}]", part) for number, part in enumerate(content)]


def _part(field: str, part: JsonValue) -> agent_pb2.ContentPart:
    if isinstance(part, str):
        return agent_pb2.ContentPart(text=part)
    kind = part.get("type") if isinstance(part, dict) else None
    made = _PARTS.get(kind) if isinstance(kind, str) else None
    if made is None or not isinstance(part, dict):
        raise wrong(f"{field}.type", f"one of {', '.join(sorted(_PARTS))} is right")
    return made(field, part)


def _text(field: str, part: Mapping[str, JsonValue], name: str = "text") -> agent_pb2.ContentPart:
    return agent_pb2.ContentPart(text=_string(field, part, name))


def _refusal(field: str, part: Mapping[str, JsonValue]) -> agent_pb2.ContentPart:
    return _text(field, part, "refusal")


def _image(field: str, part: Mapping[str, JsonValue]) -> agent_pb2.ContentPart:
    """`image_url` is an object with `url` in the one API, and a text in the other."""
    _refuse_stored(field, part)
    url = part.get("image_url")
    if isinstance(url, dict):
        url = _string(f"{field}.image_url", url, "url")
    if not isinstance(url, str) or not url:
        raise wrong(f"{field}.image_url", "is missing; a URL is right, e.g. data:image/png;base64,…")
    return agent_pb2.ContentPart(blob=_at(f"{field}.image_url", url, "image/*"))


def _audio(field: str, part: Mapping[str, JsonValue]) -> agent_pb2.ContentPart:
    field = f"{field}.input_audio"
    audio = _object(field, part.get("input_audio"))
    mime_type = _AUDIO.get(_string(field, audio, "format"))
    if mime_type is None:
        raise wrong(f"{field}.format", f"one of {', '.join(_AUDIO)} is right")
    data = _decoded(f"{field}.data", _string(field, audio, "data"))
    return agent_pb2.ContentPart(blob=agent_pb2.Blob(mime_type=mime_type, data=data))


def _file(field: str, part: Mapping[str, JsonValue]) -> agent_pb2.ContentPart:
    """`file` is an object in the one API; in the other its fields are the part's own."""
    if part["type"] == "file":
        field = f"{field}.file"
        part = _object(field, part.get("file"))
    _refuse_stored(field, part)
    name = part.get("filename") or ""
    if not isinstance(name, str):
        raise wrong(f"{field}.filename", "should be a text")
    unknown = "application/octet-stream"
    if part.get("file_url"):
        blob = _at(f"{field}.file_url", _string(field, part, "file_url"), unknown)
    else:
        data = _string(field, part, "file_data")
        where = f"{field}.file_data"
        if data.startswith("data:"):
            blob = _at(where, data, unknown)
        else:
            blob = agent_pb2.Blob(mime_type=unknown, data=_decoded(where, data))
    blob.name = name
    return agent_pb2.ContentPart(blob=blob)


_PARTS: Final[dict[str, Callable[[str, Mapping[str, JsonValue]], agent_pb2.ContentPart]]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "image_url": _image,
    "input_image": _image,
    "input_audio": _audio,
    "file": _file,
    "input_file": _file,
}


def _at(field: str, url: str, unknown: str) -> agent_pb2.Blob:
    """What a URL stands for: the bytes of a data URL, of others the place."""
    if not url.startswith("data:"):
        return agent_pb2.Blob(mime_type=unknown, uri=url)
    told, comma, data = url.removeprefix("data:").partition(",")
    if not comma:
        raise wrong(field, "is no data URL; data:image/png;base64,… is right")
    mime_type = told.partition(";")[0] or "text/plain"
    is_base64 = told.endswith(";base64")
    return agent_pb2.Blob(
        mime_type=mime_type, data=_decoded(field, data) if is_base64 else unquote_to_bytes(data)
    )


def _decoded(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise wrong(field, "is no base64") from None


def _refuse_stored(field: str, part: Mapping[str, JsonValue]) -> None:
    if part.get("file_id"):
        raise wrong(f"{field}.file_id", "no files are kept here; send the file itself")


def _object(field: str, value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise wrong(field, "should be an object")
    return value


def _string(field: str, part: Mapping[str, Any], name: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise wrong(f"{field}.{name}", "should be a text" if name in part else "is missing")
    return value
