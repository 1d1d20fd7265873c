"""What may be told to anybody of a language model: its name and what it can do, as far as its table says that. Its
provider's library knows more of some, but takes a second or two to import, which a commander's start does not wait for.
"""

from dataclasses import dataclass

from commander.models.table import ModelTable

_IMAGE = "image/"


@dataclass(frozen=True, slots=True)
class Offer:
    """`model` is PROVIDER:NAME. None: nobody has said."""

    name: str
    model: str
    takes_images: bool | None
    takes_files: bool | None
    calls_tools: bool | None
    structured_output: bool | None
    shows_reasoning: bool | None


def offer(name: str, table: ModelTable) -> Offer:
    # What a table does not accept is refused before it is sent, so that is known for certain.
    accepts = table.accepts
    return Offer(
        name,
        table.model,
        None if accepts is None else any(each.startswith(_IMAGE) for each in accepts),
        None if accepts is None else not all(each.startswith(_IMAGE) for each in accepts),
        table.calls_tools,
        table.structured_output,
        table.shows_reasoning,
    )
