"""What this package offers to inferd: what a client of a federation has its own kernel do with its own rows."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import function, hookimpl
from inferd_federation import heads

PIECE: Final = 384 << 10
"""Bytes of weights in a piece, so that it is within `functions.piece_bytes` as base64."""


@function(timeout_s=3600, memory_bytes=1 << 30)
def federation_train(  # noqa: PLR0917 - given by name
    weights: str,
    rows: list[dict[str, Any]],
    recipe: dict[str, Any],
    counts: str = "",
    proximal: float = 0.0,
    turn: int = 0,
) -> Iterator[dict[str, Any]]:
    """Train heads on rows from weights (float32, base64): tells loss and rows, then the new weights in pieces."""
    read = heads.Recipe.read(recipe)
    made, loss = heads.train(_weights(weights, read), _rows(rows, read, counts), read, proximal=proximal, turn=turn)
    yield {"loss": loss, "rows": len(rows)}
    yield from _pieces(made.astype("<f4").tobytes())


@function(timeout_s=600, memory_bytes=1 << 30)
def federation_counts(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Count in how many rows the words of each bucket are (int64, base64): in pieces."""
    yield {"rows": len(rows)}
    yield from _pieces(heads.statistics(rows, heads.Recipe.read(recipe)).astype("<i8").tobytes())


@function(timeout_s=600, memory_bytes=1 << 30)
def federation_judge(
    weights: str, rows: list[dict[str, Any]], recipe: dict[str, Any], counts: str = ""
) -> dict[str, float]:
    """Accuracy and macro-F1 of heads on rows."""
    read = heads.Recipe.read(recipe)
    return heads.judge(_weights(weights, read), _rows(rows, read, counts), read)


def _weights(written: str, recipe: heads.Recipe) -> NDArray[np.float32]:
    found = np.frombuffer(b64decode(written, validate=True), "<f4")
    if len(found) != recipe.size:
        raise ValueError(f"weights have {len(found)} numbers, and the recipe {recipe.size}")
    return found


def _rows(rows: list[dict[str, Any]], recipe: heads.Recipe, counts: str) -> heads.Rows:
    if not rows:
        raise ValueError("there are no rows")
    counted = np.frombuffer(b64decode(counts, validate=True), "<i8") if counts else None
    if counted is not None and len(counted) != recipe.buckets + 1:
        raise ValueError(f"counts have {len(counted)} numbers; a recipe with {recipe.buckets} buckets has one more")
    return heads.prepare(rows, recipe, counted)


def _pieces(content: bytes) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(content), PIECE):
        yield {"part": b64encode(content[begin : begin + PIECE]).decode()}


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """Functions for clients of federations."""
    return (federation_counts, federation_judge, federation_train)
