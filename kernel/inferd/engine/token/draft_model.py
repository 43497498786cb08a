"""Guesses of a smaller model, whose keys and values lie in a pool of its own.

Y. Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2022, arXiv:2211.17192. Here the guess
is the likeliest token each time, and one counts as right where the model's own choice is the same: outputs are those
without guesses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from inferd.core.vigil import Doing
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.token.drafts import Drafter
    from inferd.plugin import LoadedModel, TokenSession
    from inferd.plugin.session import Int32Array

_NOTHING: Final = np.zeros(0, np.int32)
_NEAR: Final = 32
"""Tokens of a sequence that are read at once, however few may be: so many it writes while it is not guessed for."""
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """For whom something is guessed.

    Attributes:
        drafter: Of the sequence.
        tokens: All of its tokens so far, shape (T,), at least one.
        most: Most tokens of the guess, at least one.
    """

    drafter: Drafter
    tokens: Int32Array
    most: int


class _Kept:
    """What the model has read of one sequence: `count` of its `tokens` are in `blocks`, the first `sure` are right."""

    __slots__ = ("blocks", "count", "sure", "tokens")

    def __init__(self, context_tokens: int) -> None:
        self.tokens = np.empty(context_tokens, np.int32)
        self.count = self.sure = 0
        self.blocks: list[int] = []

    def settle(self, tokens: Int32Array) -> None:
        """Forget what was guessed wrong; at least the last token is read again."""
        count = min(self.count, len(tokens) - 1)
        sure = min(self.sure, count)
        wrong = np.flatnonzero(self.tokens[sure:count] != tokens[sure:count])
        self.count = self.sure = sure + int(wrong[0]) if wrong.size else count


class DraftModel:
    """A model that guesses for another one. One writer: the thread of the steps.

    Args:
        session: Of it, with as many logits as the model has that it guesses for.
        activity: Told when it computes.

    Raises:
        ValueError: Its session is none that can go back.
    """

    def __init__(self, session: TokenSession, activity: Activity) -> None:
        limits = session.limits
        lacking = [
            name
            for name in ("whole_prompts", "forward_only", "window_blocks", "border_tokens")
            if getattr(limits, name)
        ]
        if lacking:
            raise ValueError(f"a model whose session has {', '.join(lacking)} cannot guess for another one")
        self._session, self._limits, self._activity = session, limits, activity
        self._free = list(range(limits.blocks))
        self._kept: dict[Drafter, _Kept] = {}
        self._failed = False

    @classmethod
    def beside(cls, model: LoadedModel, activity: Activity) -> DraftModel | None:
        """The one that a loaded model has beside it; None where it has none."""
        return None if model.draft is None else cls(model.draft, activity)

    def guess(
        self, asked: Sequence[Asked], *, present: Sequence[Drafter | None], most_read: int | None = None
    ) -> list[Int32Array]:
        """The likeliest next tokens of each, shape (D,) with D at most `most`; D is 0 where it cannot say.

        Args:
            asked: For whom.
            present: The drafters of all sequences that decode: what is kept of others goes.
            most_read: Most tokens that are read of those of which more than a few are not: those that decode wait for
                that. None for as many as fit into a step.
        """
        if self._failed:
            return [_NOTHING] * len(asked)
        try:
            for gone in self._kept.keys() - set(present):
                self._free += self._kept.pop(gone).blocks
            return self._guess(asked, self._limits.max_step_tokens if most_read is None else max(most_read, _NEAR))
        except Exception:  # noqa: BLE001 - foreign code; without guesses all goes on
            _log.exception("a model that guesses for another one failed; nothing is guessed by it any more")
            self._failed = True
            return [_NOTHING] * len(asked)

    def _guess(self, asked: Sequence[Asked], most_read: int) -> list[Int32Array]:
        guesses: list[list[int]] = [[] for _ in asked]
        live = self._catch_up(asked, guesses, most_read)
        while live:
            given = [(kept, np.array(guesses[at][-1:], np.int32)) for at, kept in live]
            for (at, _), token in zip(live, self._step(given, wanted=len(given)), strict=True):
                guesses[at].append(token)
            live = [(at, kept) for at, kept in live if len(guesses[at]) < asked[at].most]
        return [np.array(guess, np.int32) for guess in guesses]

    def _catch_up(self, asked: Sequence[Asked], guesses: list[list[int]], most_read: int) -> list[tuple[int, _Kept]]:
        """Read what it has not read, as far as a step reaches, and guess one token of each that it has read to its end.

        Returns:
            Those of which more is wanted.
        """
        limits, left = self._limits, self._limits.max_step_tokens
        whole: list[tuple[int, _Kept]] = []
        given: list[tuple[_Kept, Int32Array]] = []
        others: list[tuple[_Kept, Int32Array]] = []
        for at, (drafter, tokens, most) in enumerate(asked):
            if not left or len(given) + len(others) == limits.max_sequences:
                break
            if len(tokens) + most > limits.context_tokens:
                continue
            kept = self._kept.get(drafter)
            if kept is None:
                kept = self._kept[drafter] = _Kept(limits.context_tokens)
            kept.settle(tokens)
            if not self._grow(kept, len(tokens) + most):
                continue
            count = min(len(tokens) - kept.count, left)
            if count > _NEAR:
                count = min(count, most_read)
                most_read -= count
            if not count:
                continue
            left -= count
            some = tokens[kept.count : kept.count + count]
            if kept.count + count == len(tokens):
                whole.append((at, kept))
                given.append((kept, some))
            else:
                others.append((kept, some))
        for (at, _), token in zip(whole, self._step([*given, *others], wanted=len(given)), strict=True):
            guesses[at].append(token)
        return [(at, kept) for at, kept in whole if asked[at].most > 1]

    def _grow(self, kept: _Kept, tokens: int) -> bool:
        """Have blocks for so many tokens; False where too few are free."""
        lacking = -(-tokens // self._limits.block_tokens) - len(kept.blocks)
        if lacking > len(self._free):
            return False
        for _ in range(lacking):
            kept.blocks.append(self._free.pop())
        return True

    def _step(self, given: Sequence[tuple[_Kept, Int32Array]], *, wanted: int) -> list[int]:
        """Read more of some; the likeliest next token of each of the first `wanted`."""
        if not given:
            return []
        counts = [len(some) for _, some in given]
        starts = np.cumsum([0, *counts]).astype(np.int32)
        tables = np.full((len(given), max(len(kept.blocks) for kept, _ in given)), -1, np.int32)
        for row, (kept, some) in enumerate(given):
            kept.tokens[kept.count : kept.count + len(some)] = some
            tables[row, : len(kept.blocks)] = kept.blocks
        begins = np.array([kept.count for kept, _ in given], np.int32)
        lengths = begins + np.array(counts, np.int32)
        batch = TokenBatch(
            token_ids=np.concatenate([some for _, some in given]),
            positions=np.concatenate([np.arange(a, b, dtype=np.int32) for a, b in zip(begins, lengths, strict=True)]),
            starts=starts,
            lengths=lengths,
            block_tables=tables,
            logit_rows=starts[1 : wanted + 1] - 1,
        )
        self._activity.begin(Doing.STEP, int(starts[-1]))
        result = self._session.step(batch)
        for (kept, _), length in zip(given, lengths.tolist(), strict=True):
            kept.count = length
        if not wanted:
            return []
        logits = np.asarray(result.logits)
        if logits.shape != (wanted, self._limits.vocabulary_size):
            raise ValueError(f"logits have shape {logits.shape}; they must have {wanted, self._limits.vocabulary_size}")
        chosen: list[int] = logits.argmax(-1).tolist()
        return chosen
