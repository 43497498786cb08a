"""Choosing tokens from logits, vectorised over the rows of a step.

First come the rules: bias, penalties, DRY, what is forbidden. The filters apply in the order temperature, top-k, top-p,
min-p, each to what the one before left, as in Hugging Face transformers; rows with further filters are chosen for one
by one (`shapes`). Equal logits are ordered by id, the lowest first. Sums are in float64. A row's token depends on its
logits, its parameters, its history, its seed and its position, and on nothing else in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from inferd.engine.token.best import find_best
from inferd.engine.token.logprobs import measure
from inferd.engine.token.mirostat import Surprise
from inferd.engine.token.philox import uniform
from inferd.engine.token.rules import ALL, RuledRow, change
from inferd.engine.token.shapes import LOT, Cut, Shape
from inferd.errors import present
from inferd.plugin import DeviceSampling
from inferd.sampling import COLDEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.core.task_events import Logprobs
    from inferd.engine.token.rules import Masks, Rules
    from inferd.plugin.session import Float32Array, Int32Array
    from inferd.sampling import Sampling

    Ids = NDArray[np.intp]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

NO_TOKENS: Final = np.zeros(0, np.int32)
SILENT: Final = -1  # the number of likeliest tokens to tell for a row that asks for no probabilities
BAD_ROW: Final = -1
"""Chosen for a row whose logits are not finite."""

NOTHING_LEFT: Final = -2
"""Chosen for a row in which every token is forbidden."""

_CANDIDATES: Final = 512  # a nucleus is looked for among so many first,
_WIDENING: Final = 16  # and then among this many times more
_GROUP: Final = 1 << 18  # logits that are worked on at once: they stay in a core's cache


class Filters(NamedTuple):
    """What to keep of each row, each shape (R,): 0 keeps all for top-k and min-p, 1 for top-p."""

    top_k: Ids
    top_p: Floats
    min_p: Floats

    def of(self, some: Ids | Bools) -> Filters:
        """Those of some rows."""
        return Filters(self.top_k[some], self.top_p[some], self.min_p[some])


class Sampler:
    """The sampling parameters of each row, and the choice of its next token. One writer: the batcher.

    Args:
        rows: Most sequences in one step.
        vocabulary_size: Number of logits in a row.
    """

    def __init__(self, *, rows: int, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._index = np.arange(rows)
        self._temperature = np.zeros(rows, np.float32)
        self._top_k = np.zeros(rows, np.int64)
        self._top_p = np.ones(rows, np.float64)
        self._min_p = np.zeros(rows, np.float64)
        self._seed = np.zeros(rows, np.uint64)
        self._top = np.full(rows, SILENT, np.int64)
        self._is_ruled = np.zeros(rows, np.bool_)
        self._ruled: list[RuledRow | None] = [None] * rows
        self._is_shaped = np.zeros(rows, np.bool_)
        self._shapes: list[Shape | Surprise | None] = [None] * rows
        self._columns: tuple[NDArray[Any], ...] = (
            self._temperature,
            self._top_k,
            self._top_p,
            self._min_p,
            self._seed,
            self._top,
            self._is_ruled,
            self._is_shaped,
        )

    def assign(
        self,
        row: int,
        sampling: Sampling,
        *,
        rules: Rules | None = None,
        tokens: Int32Array = NO_TOKENS,
        prompt_tokens: int = 0,
        surprise: Surprise | None = None,
    ) -> None:
        """Give a row its parameters. A temperature below 1e-6 is greedy; a top-k of all tokens keeps all.

        Args:
            row: The row.
            sampling: What the task asks for.
            rules: What changes its logits; None for nothing.
            tokens: Prompt and output so far, shape (T,); only read where there are rules.
            prompt_tokens: How many of them are the prompt's.
            surprise: What it goes by in place of filters, and learns from; None for nothing.
        """
        self._temperature[row] = sampling.temperature if sampling.temperature >= COLDEST else 0
        self._top_k[row] = sampling.top_k if sampling.top_k < self._vocabulary_size else 0
        self._top_p[row] = sampling.top_p
        self._min_p[row] = sampling.min_p
        self._seed[row] = sampling.seed
        self._top[row] = SILENT if sampling.logprobs is None else sampling.logprobs
        self._is_ruled[row] = rules is not None
        self._ruled[row] = None
        if rules is not None:
            self._ruled[row] = RuledRow(rules, tokens=tokens, prompt_tokens=prompt_tokens)
        self._shapes[row] = surprise or Shape.of(sampling)
        self._is_shaped[row] = self._shapes[row] is not None

    def move(self, source: int, target: int) -> None:
        """Give row `target` the parameters of row `source`."""
        for column in self._columns:
            column[target] = column[source]
        self._ruled[target] = self._ruled[source]
        self._shapes[target] = self._shapes[source]

    def swap(self, one: int, other: int) -> None:
        """Exchange the parameters of two rows."""
        for column in self._columns:
            column[[one, other]] = column[[other, one]]
        self._ruled[one], self._ruled[other] = self._ruled[other], self._ruled[one]
        self._shapes[one], self._shapes[other] = self._shapes[other], self._shapes[one]

    def choose(
        self,
        logits: Float32Array,
        positions: Int32Array,
        *,
        rows: Ids | None = None,
        masks: Masks | None = None,
    ) -> Ids:
        """The next token for each row of logits, shape (R,); `BAD_ROW` or `NOTHING_LEFT` where there is none.

        A row with rules takes note of its token, as the next one of its sequence.

        Args:
            logits: Shape (R, V); not changed.
            positions: Position of the new token in its sequence, shape (R,).
            rows: Whose parameters hold for each row of logits, shape (R,); default: the first R rows. A row whose
                rules read its history (`Rules.reads_history`) comes once at most.
            masks: Bits of the tokens that are allowed, lowest id first, shape (R, ceil(V / 32)); default: all.

        Raises:
            ValueError: The logits have another shape.
        """
        count = len(positions)
        if logits.shape != (count, self._vocabulary_size):
            raise ValueError(f"the logits have shape {logits.shape}, not {(count, self._vocabulary_size)}")
        rows = self._index[:count] if rows is None else rows
        changed = self._is_ruled[rows]
        if masks is not None:
            changed = changed | (masks != ALL).any(axis=1)
        if not changed.any():
            return self._choose(logits, rows, positions)
        ids = self._choose(logits, rows, positions, skip=changed)
        places = np.flatnonzero(changed & (ids != BAD_ROW))
        group = max(1, _GROUP // self._vocabulary_size)
        for some in (places[at : at + group] for at in range(0, len(places), group)):
            allowed = None if masks is None else masks[some]
            ids[some] = self._choose_ruled(logits[some], rows[some], positions[some], allowed)
        return ids

    def keeps(self, rows: Ids | None, count: int) -> Bools:
        """Which of so many rows need their logits here: a session cannot choose their tokens. Rows as for `choose`."""
        rows = self._index[:count] if rows is None else rows
        kept: Bools = self._is_ruled[rows] | self._is_shaped[rows] | (self._top[rows] != SILENT)
        return kept

    def for_device(self, positions: Int32Array, *, rows: Ids | None = None) -> DeviceSampling:
        """What a session needs to choose the tokens itself, of rows that are not kept here.

        Args:
            positions: As for `choose`.
            rows: As for `choose`.
        """
        rows = self._index[: len(positions)] if rows is None else rows
        temperatures = self._temperature[rows]
        draws = temperatures.any()  # else the points say nothing, and drawing them takes longer than all else here
        return DeviceSampling(
            temperatures=temperatures,
            top_k=self._top_k[rows],
            top_p=self._top_p[rows],
            min_p=self._min_p[rows],
            points=uniform(self._seed[rows], positions) if draws else np.zeros(len(positions)),
        )

    def measure(self, logits: Float32Array, ids: Ids, *, rows: Ids | None = None) -> dict[int, Logprobs]:
        """How likely the chosen tokens were, by place in `ids`; of rows that ask for it and have a token.

        Args:
            logits: As `choose` was given them, shape (R, V).
            ids: What it chose, shape (R,).
            rows: As `choose` was given them.
        """
        tops = self._top[: len(ids)] if rows is None else self._top[rows]
        places = np.flatnonzero((tops != SILENT) & (ids >= 0))
        if not places.size:
            return {}
        told = measure(logits[places], ids[places], tops[places].tolist())
        return dict(zip(places.tolist(), told, strict=True))

    def _choose_ruled(self, logits: Float32Array, rows: Ids, positions: Int32Array, masks: Masks | None) -> Ids:
        """As `_choose`, by the rules of each row; changes the logits."""
        ruled = [self._ruled[row] for row in rows]
        change(logits, ruled, positions, masks)
        ids = self._choose(logits, rows, positions)
        ids[ids == BAD_ROW] = NOTHING_LEFT
        for row, token_id in zip(ruled, ids.tolist(), strict=True):
            if row is not None:
                row.add(token_id)
        return ids

    def _choose(self, logits: Float32Array, rows: Ids, positions: Int32Array, *, skip: Bools | bool = False) -> Ids:
        """Choose from logits as they are; those that are to be skipped are only checked."""
        ids: Ids = logits.argmax(axis=1)
        peaks = logits[np.arange(len(ids)), ids]
        finite = np.isfinite(peaks)  # argmax finds NaN and +inf first, and -inf only where there is nothing else
        temperatures = self._temperature[rows]
        if temperatures.any():
            wanted = (temperatures > 0) & finite & ~np.bool_(skip)
            shaped = self._is_shaped[rows]
            if shaped.any():
                self._draw_shaped(ids, np.flatnonzero(wanted & shaped), logits, rows, positions)
                wanted &= ~shaped
            drawn = np.flatnonzero(wanted)
            points = uniform(self._seed[rows[drawn]], positions[drawn])
            group = max(1, _GROUP // self._vocabulary_size)
            for some in (slice(at, at + group) for at in range(0, len(drawn), group)):
                ids[drawn[some]] = self._draw(logits[drawn[some]], rows[drawn[some]], points[some])
        if not finite.all():
            ids[~finite] = BAD_ROW
        return ids

    def _draw_shaped(self, ids: Ids, drawn: Ids, logits: Float32Array, rows: Ids, positions: Int32Array) -> None:
        """Put into `ids` what is drawn for the places `drawn`, each of which has a shape."""
        seeds = self._seed[rows[drawn]]
        points, lots = (uniform(each, positions[drawn]) for each in (seeds, seeds ^ LOT))
        for place, row, point, lot in zip(drawn, rows[drawn], points, lots, strict=True):
            shape = self._shapes[row]
            if isinstance(shape, Surprise):
                ids[place] = shape.pick(logits[place], point)
                continue
            cut = Cut(*(column[row].item() for column in (self._temperature, self._top_k, self._top_p, self._min_p)))
            ids[place] = present(shape).pick(logits[place], cut, point, lot)

    def _draw(self, logits: Float32Array, rows: Ids, points: Floats) -> Ids:
        """Draw from the rows of `logits`, which belong to the rows `rows` of the tables."""
        weights = logits - logits.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):  # a logit far below the peak has the weight 0
            weights /= self._temperature[rows, None]
        np.exp(weights, out=weights)
        filters = Filters(self._top_k[rows], self._top_p[rows], self._min_p[rows])
        cut = (filters.top_k > 0) | (filters.top_p < 1)
        if cut.all():
            return _pick_cut(logits, weights, filters, points)
        if filters.min_p.any():
            weights = _drop_unlikely(weights, np.where(cut, 0, filters.min_p))
        if not cut.any():
            return _pick(weights, points)
        ids = np.empty(len(rows), np.intp)
        ids[~cut] = _pick(weights[~cut], points[~cut])
        ids[cut] = _pick_cut(logits[cut], weights[cut], filters.of(cut), points[cut])
        return ids


def _drop_unlikely(weights: Float32Array, least: Floats) -> Float32Array:
    """The weights without those below `least`; the greatest one of a row is 1."""
    return np.where(weights < least[:, None], np.float32(0), weights)


def _pick(weights: Float32Array, points: Floats) -> Ids:
    """The token at `points` (in [0, 1)) of each row's distribution: first the block of weights, then inside it."""
    size = weights.shape[1]
    block = 1 << size.bit_length() // 2  # about the square root: both searches are equally long
    sums = np.add.reduceat(weights, np.arange(0, size, block), axis=1, dtype=np.float64).cumsum(axis=1)
    targets = points * sums[:, -1]
    found = _find(sums, targets)[:, None]
    before = np.where(found > 0, np.take_along_axis(sums, np.maximum(found - 1, 0), axis=1), 0)[:, 0]
    ids = found * block + np.arange(block)
    inside = np.take_along_axis(weights, np.minimum(ids, size - 1), axis=1).astype(np.float64)
    inside[ids >= size] = 0
    chosen: Ids = found[:, 0] * block + _find(inside.cumsum(axis=1), targets - before)
    return chosen


def _pick_cut(
    logits: Float32Array,
    weights: Float32Array,
    filters: Filters,
    points: Floats,
    *,
    candidates: int = _CANDIDATES,
) -> Ids:
    """As `_pick`, from what top-k, then top-p and min-p leave; looks for the nucleus among `candidates` first."""
    size = logits.shape[1]
    top_k, top_p, min_p = filters
    order, held = find_best(logits, min(int(np.where(top_k > 0, top_k, candidates).max()), size))
    sums, total = _prefix_sums(weights, order, held, top_k)
    goal = top_p * total
    kept = np.minimum((sums < goal[:, None]).sum(axis=1), order.shape[1] - 1)
    if min_p.any():  # the weights fall along the order, and the first one is 1: it is always kept
        likely = np.take_along_axis(weights, order, axis=1) >= min_p[:, None]
        kept = np.minimum(kept, np.cumprod(likely, axis=1).sum(axis=1) - 1)
    mass = np.take_along_axis(sums, kept[:, None], axis=1)
    place = _find(np.minimum(sums, mass), points * mass[:, 0])
    ids: Ids = np.take_along_axis(order, place[:, None], axis=1)[:, 0]
    if order.shape[1] < size and len(wide := np.flatnonzero(sums[:, -1] < goal)):
        more = candidates * _WIDENING
        ids[wide] = _pick_cut(logits[wide], weights[wide], filters.of(wide), points[wide], candidates=more)
    return ids


def _prefix_sums(weights: Float32Array, order: Ids, held: NDArray[np.bool_], top_k: Ids) -> tuple[Floats, Floats]:
    """Sums of the weights in `order`, as far as `held` and top-k allow, and the weight of all that top-k leaves."""
    ranked = np.take_along_axis(weights, order, axis=1).astype(np.float64)
    limited = top_k[:, None] > 0
    ranked[~held | (limited & (np.arange(order.shape[1]) >= top_k[:, None]))] = 0
    sums = ranked.cumsum(axis=1)
    return sums, np.where(limited[:, 0], sums[:, -1], weights.sum(axis=1, dtype=np.float64))


def _find(sums: Floats, targets: Floats) -> Ids:
    """The first place of each row whose running sum exceeds the target; a place of weight 0 is never found."""
    below = np.minimum(targets, np.nextafter(sums[:, -1], 0))
    places: Ids = (sums <= below[:, None]).sum(axis=1)
    return places
