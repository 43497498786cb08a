"""Damage to the head of a GGUF file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from gguf_seeds import Field, Sound

FRONT, TABLE = 60, 1600  # fields: of the first pairs, and of the tensors of a real model
EDGES = [
    sign * (1 << bits) + step
    for bits in (0, 3, 7, 8, 15, 16, 31, 32, 62, 63)
    for sign in (1, -1)
    for step in (-1, 0, 1)
]
FLOATS = [
    int.from_bytes(struct.pack("<f", number), "little")
    for number in (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
]


def damaged(sound: Sound, rng: np.random.Generator) -> bytes:
    """The file with one to four wounds in its head."""
    out = bytearray(sound.content)
    for _ in range(min(4, int(rng.geometric(0.6)))):
        kind, place = rng.integers(0, 20), int(rng.integers(0, sound.end))
        field, other = _choose(sound.fields, rng), _choose(sound.fields, rng)
        piece = sound.content[other.offset : other.offset + int(rng.integers(1, 64))]
        if kind == 0:
            del out[place:]
        elif kind == 1:
            del out[place : place + len(piece)]
        elif kind == 2:
            out[place:place] = piece
        elif kind < 6:
            out[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif kind < 9:
            out[field.offset : field.offset + field.size] = piece[: field.size].ljust(field.size, b"\0")
        else:
            out[field.offset : field.offset + field.size] = _wild_number(sound.content, field, rng)
    return bytes(out)


def _choose(fields: list[Field], rng: np.random.Generator) -> Field:
    """Any field; often one of the ends, where a large vocabulary does not drown the counts and the tensors."""
    parts = (fields, fields[:FRONT], fields[-TABLE:])
    part = parts[int(rng.integers(0, len(parts)))]
    return part[int(rng.integers(0, len(part)))]


def _wild_number(content: bytes, field: Field, rng: np.random.Generator) -> bytes:
    """A number near the true one, at an edge of some kind of number, or any."""
    true = int.from_bytes(content[field.offset : field.offset + field.size], "little")
    near = (true - 1, true + 1, true * 2, true // 2, true + 32, true - 32, true << 32)
    pools: tuple[Sequence[int], ...] = (near, EDGES, FLOATS, range(40))
    pool = pools[int(rng.integers(0, len(pools)))]
    number = pool[int(rng.integers(0, len(pool)))] if rng.random() < 0.95 else int(rng.integers(0, 1 << 63))
    return (number % (1 << (8 * field.size))).to_bytes(field.size, "little")
