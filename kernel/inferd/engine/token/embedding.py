"""A vector for a prompt, from the hidden states of its tokens, as they are computed part by part."""

from __future__ import annotations

from math import erf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from inferd.plugin.backend import Pooling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.engine.work import Embedding
    from inferd.plugin.backend import RankHead
    from inferd.plugin.session import Float32Array


class PromptPool:
    """Gathers the embedding of the prompt of one sequence. One writer: the thread of the steps.

    Args:
        prompt_tokens: Tokens of the prompt.
        embedding: What is asked for.
        default: How tokens become one vector, if that is not asked for.
        head: Makes scores of it where those are asked for.
        alone: A token's state depends on those behind it, so that none of another sequence is the same.

    Attributes:
        whole: Whether the prompt is computed from its first token on, and nothing of it comes from the prefix cache.
    """

    def __init__(
        self,
        prompt_tokens: int,
        embedding: Embedding,
        *,
        default: Pooling = Pooling.LAST,
        head: RankHead | None = None,
        alone: bool = False,
    ) -> None:
        pooling = embedding.pooling or default
        self._head = head if pooling is Pooling.RANK else None
        pooling = self._head.pooling if self._head is not None else pooling
        self.whole = pooling is not Pooling.LAST or alone
        self._normalize = embedding.normalize
        self._next = prompt_tokens - 1 if pooling is Pooling.LAST else 0  # the first position that is still wanted
        self._end = 1 if pooling is Pooling.FIRST else prompt_tokens
        self._count = self._end - self._next
        self._sum: NDArray[np.float64] | None = None

    def wanted(self, begin: int, end: int) -> range:
        """Which of the positions from `begin` up to `end` are wanted."""
        end = min(end, self._end)
        return range(min(max(begin, self._next), end), end)

    def add(self, hidden: Float32Array) -> None:
        """Take the hidden states of the positions that are wanted next, shape (R, W)."""
        total = hidden.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._next += len(hidden)

    def vector(self) -> tuple[float, ...]:
        """The embedding, once all that is wanted was added.

        Raises:
            ValueError: It is not made of finite numbers.
        """
        if self._sum is None or not np.isfinite(self._sum).all():
            raise ValueError("TokenSession.step gave hidden states that are not finite numbers")
        mean = self._sum / self._count
        if self._head is not None:
            return _score(self._head, mean)
        length = float(np.linalg.norm(mean)) if self._normalize else 1.0
        return tuple((mean / (length or 1.0)).astype(np.float32).tolist())


def _score(head: RankHead, state: NDArray[np.float64]) -> tuple[float, ...]:
    """What a head makes of a hidden state, shape (W,)."""
    for index, (matrix, bias, activation) in enumerate(head.layers):
        if head.norm is not None and index == len(head.layers) - 1:
            centred = state - state.mean()
            state = centred / np.sqrt(np.mean(centred * centred) + head.epsilon) * head.norm[0]
            state = state if head.norm[1] is None else state + head.norm[1]
        state = matrix @ state
        state = state if bias is None else state + bias
        if activation == "tanh":
            state = np.tanh(state)
        elif activation == "gelu":
            state *= 0.5 * (1 + np.array([erf(x) for x in state / sqrt(2)]))
    return tuple(state.astype(np.float32).tolist())
