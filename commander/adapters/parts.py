"""Parts of messages as OpenAI's chat completions have them, which LangChain takes for models of all providers."""

import base64
from typing import Any, Final

from commander.conversation import Blob, JsonPart, Part
from commander.models import Trouble

_SPOKEN: Final = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def content_part(part: Part) -> dict[str, Any]:
    """A part of a user's message. Trouble for what they don't take."""
    match part:
        case Blob(mime_type, data) if data and mime_type.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": _data_uri(mime_type, data)}}
        case Blob(mime_type, data) if data and mime_type in _SPOKEN:
            encoded = base64.b64encode(data).decode()
            return {"type": "input_audio", "input_audio": {"data": encoded, "format": _SPOKEN[mime_type]}}
        case Blob("application/pdf" as mime_type, data, _, name) if data:
            file = {"filename": name or "file.pdf", "file_data": _data_uri(mime_type, data)}
            return {"type": "file", "file": file}
        case Blob(mime_type, b"", uri) if mime_type.startswith("image/") and uri.startswith(
            ("https://", "http://")
        ):
            # The provider fetches it: this commander opens no address that a user names.
            return {"type": "image_url", "image_url": {"url": uri}}
        case Blob(mime_type, data) if data and mime_type.startswith("text/"):
            return {"type": "text", "text": data.decode(errors="replace")}
        case Blob(mime_type):
            raise Trouble(
                "model_input_refused",
                f"a part of type {mime_type!r} can't be handed over; images, wav, mp3 and pdf by their bytes, and"
                " images by http:// or https:// are right",
            )
        case _:
            return {"type": "text", "text": plain(part)}


def plain(part: Part) -> str:
    match part:
        case str():
            return part
        case JsonPart(json):
            return json
        case Blob(mime_type):
            return f"[{mime_type}]"


def _data_uri(mime_type: str, data: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
