"""What is told in parts, since all of it may be larger than a piece of what a function gives."""

from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import BaseModel, RootModel

PART_CHARACTERS: Final = 64 << 10  # of at most 12 bytes in the JSON of a piece


def in_parts(told: BaseModel | Sequence[BaseModel]) -> Iterator[str]:
    """Parts of something as JSON, which is all of them, one behind the other."""
    text = (told if isinstance(told, BaseModel) else RootModel(list(told))).model_dump_json()
    for at in range(0, len(text), PART_CHARACTERS):
        yield text[at : at + PART_CHARACTERS]
