"""Reads the keys of one architecture from the metadata of a file."""

from collections.abc import Sequence
from typing import Final

from inferd_cpu.family import Family
from inferd_weights.metadata import Kind, Metadata

MAX_WIDTH: Final = 1 << 20


class Keys:
    """Values by the key behind the architecture's name.

    Args:
        metadata: Of the file.
        name: Of the architecture.
        family: What it is made of.
    """

    def __init__(self, metadata: Metadata, name: str, family: Family) -> None:
        self.metadata = metadata
        self.name = name
        self.family = family

    def key(self, key: str) -> str:
        """The whole key."""
        return f"{self.name}.{key}"

    def size(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_WIDTH) -> int:
        """A whole number within bounds."""
        return self.metadata.integer(self.key(key), default, minimum=minimum, maximum=maximum)

    def number(self, key: str, default: float = 0.0) -> float:
        """A number above 0, or `default` where the file has none or 0."""
        name = self.key(key)
        value = self.metadata.content(name)
        absent = value is None or (isinstance(value, int | float) and value == 0)
        return default if absent else self.metadata.positive(name)

    def sizes(self, key: str, count: int, default: int | None = None, *, minimum: int = 1) -> Sequence[int]:
        """A size for each layer: one number for all, or an array."""
        name = self.key(key)
        value = self.metadata.get(name)
        if value is None or value.kind is not Kind.ARRAY:
            return [self.size(key, default, minimum=minimum)] * count
        sizes = self.metadata.integers(name)
        if len(sizes) < count:
            raise self.metadata.error(name, f"has {len(sizes)} numbers for {count} layers")
        wrong = next((size for size in sizes[:count] if not minimum <= size <= MAX_WIDTH), None)
        if wrong is not None:
            raise self.metadata.error(name, f"has {wrong}; its numbers must be from {minimum} to {MAX_WIDTH}")
        return sizes[:count]

    def flags(self, key: str, count: int) -> list[bool] | None:
        """True or false for each layer; None where the file has no array of them."""
        name = self.key(key)
        value = self.metadata.get(name)
        if value is None or value.kind is not Kind.ARRAY:
            return None
        self.metadata.used.add(name)
        if value.item not in (Kind.BOOL, Kind.U32, Kind.I32, Kind.U8) or len(value.content) < count:
            raise self.metadata.error(name, f"must have true or false for each of {count} layers")
        return [bool(flag) for flag in value.content[:count]]
