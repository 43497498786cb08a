"""How likely tokens were: logarithms of the model's own probabilities, before temperature, penalties and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.core.task_events import Logprobs
from inferd.engine.token.best import find_best

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from inferd.plugin.session import Float32Array

    Ids = NDArray[np.signedinteger]

_GROUP: Final = 1 << 18  # logits that are worked on at once: they stay in a core's cache


def measure(logits: Float32Array, token_ids: Ids, tops: Sequence[int]) -> list[Logprobs]:
    """How likely a token of each row was, each as a value of its own.

    Args:
        logits: Shape (R, V); not changed.
        token_ids: The token of each row, shape (R,).
        tops: How many of the likeliest tokens to tell beside it, for each row.
    """
    group = max(1, _GROUP // logits.shape[1])
    told: list[Logprobs] = []
    for at in range(0, len(token_ids), group):
        some = slice(at, at + group)
        told += _measure(logits[some], token_ids[some], tops[some])
    return told


def find_entropies(logits: Float32Array) -> list[float]:
    """The entropy of the distribution of each row, in nats; shape (R, V), not changed."""
    found: list[float] = []
    group = max(1, _GROUP // logits.shape[1])
    for at in range(0, len(logits), group):
        some = logits[at : at + group]
        below = some - some.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):  # a row that is not finite is told of elsewhere
            weights = np.exp(below)
            total = weights.sum(axis=1, dtype=np.float64)
            below[weights == 0] = 0  # what cannot come says nothing, however unlikely it is
            found += (np.log(total) - (weights * below).sum(axis=1, dtype=np.float64) / total).tolist()
    return found


def join(parts: Sequence[Logprobs]) -> Logprobs:
    """Those of several tokens, one after the other."""
    return Logprobs(
        tuple(i for part in parts for i in part.token_ids),
        tuple(x for part in parts for x in part.logprobs),
        tuple(i for part in parts for i in part.top_ids),
        tuple(x for part in parts for x in part.top_logprobs),
    )


def _measure(logits: Float32Array, token_ids: Ids, tops: Sequence[int]) -> list[Logprobs]:
    peaks = logits.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):  # a row that is not finite is told of elsewhere
        norms = np.log(np.exp(logits - peaks).sum(axis=1, dtype=np.float64)) + peaks[:, 0]
    chosen = (logits[np.arange(len(token_ids)), token_ids] - norms).tolist()
    widest = min(max(tops), logits.shape[1])
    if not widest:
        return [Logprobs((i,), (x,)) for i, x in zip(token_ids.tolist(), chosen, strict=True)]
    best = find_best(logits, widest)[0][:, :widest]
    top_ids = best.tolist()
    top_logprobs = (np.take_along_axis(logits, best, axis=1) - norms[:, None]).tolist()
    rows = zip(token_ids.tolist(), chosen, tops, top_ids, top_logprobs, strict=True)
    return [Logprobs((i,), (x,), tuple(ids[:top]), tuple(xs[:top])) for i, x, top, ids, xs in rows]
