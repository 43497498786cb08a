"""Embeddings of tokens, with what is added to them before the first layer."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.norms import normalize
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import Weights

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


def embed(
    a: Architecture,
    weights: Weights,
    token_ids: Indices,
    positions: Indices,
    starts: Indices,
    *,
    separator: int,
    out: Floats,
) -> None:
    """Set `out` to the embeddings of a step, shape (T, W).

    Args:
        a: The shape.
        weights: Of the model.
        token_ids: Shape (T,).
        positions: Shape (T,).
        starts: Where each sequence begins, and the end of all; shape (S + 1,).
        separator: The token behind which tokens are of another type, where there are types.
        out: See above.
    """
    np.take(weights.embedding, token_ids, axis=0, out=out, mode="clip")
    if a.embedding_scale != 1:
        out *= np.float32(a.embedding_scale)
    if weights.positions is not None:
        out += weights.positions[positions]
    if weights.types is not None:
        out += weights.types[_find_types(token_ids, starts, separator, count=len(weights.types))]
    if weights.embedding_norm is not None:
        bias = weights.embedding_norm_bias
        normalize(out, weights.embedding_norm, bias, kind=a.family.norm, epsilon=a.epsilon, out=out)


def _find_types(token_ids: Indices, starts: Indices, separator: int, *, count: int) -> Indices:
    """The type of each token, shape (T,): 1 behind the first separator of its sequence, where there are `count` > 1."""
    types = np.zeros(len(token_ids), np.intp)
    for first, end in pairwise(starts) if count > 1 else ():
        found = np.flatnonzero(token_ids[first:end] == separator)
        if len(found):
            types[first + found[0] + 1 : end] = 1
    return types
