"""A session that computes what was launched as late as it may, and an engine over it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from beats import Engine

from inferd.engine.token.sampler import Filters, _drop_unlikely, _pick, _pick_cut
from inferd.plugin import DeviceSampling, StepResult, TokenBatch

if TYPE_CHECKING:
    from collections.abc import Callable


def pick(logits: Any, sampling: DeviceSampling) -> np.ndarray:
    """The tokens that `DeviceSampling` describes, by what the engine chooses with itself."""
    ids = logits.argmax(axis=1)
    for row in np.flatnonzero(sampling.temperatures > 0):
        own = logits[row : row + 1]
        weights = np.exp((own - own.max()) / sampling.temperatures[row])
        filters = Filters(*(getattr(sampling, name)[row : row + 1] for name in ("top_k", "top_p", "min_p")))
        point = sampling.points[row : row + 1]
        if filters.top_k[0] > 0 or filters.top_p[0] < 1:
            ids[row] = _pick_cut(own, weights, filters, point)[0]
        else:
            ids[row] = _pick(_drop_unlikely(weights, filters.min_p), point)[0]
    return ids.astype(np.int32)


class Device:
    """A session as a device is: it computes what was launched when it has to, in order, and keeps its tokens.

    Attributes:
        session: The one whose steps it computes.
        launched: How many steps were launched, and how many of them behind one that was not read.
        unread: Most that were launched and not read.
        failing: The launch, counted from 1, whose result cannot be had; 0 for none.
        refusing: The launch that is refused.
    """

    def __init__(self, session: Any) -> None:
        self.session, self.compute = session, session.step
        self.limits = replace(self.session.limits, samples=True, mixes=True, ahead=True)
        self.launched = self.behind = self.unread = self.failing = self.refusing = 0
        self.shown: list[int] = []
        self._waiting: deque[Callable[[], np.ndarray]] = deque()
        self._tokens = np.zeros(0, np.int32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def step(self, batch: TokenBatch) -> StepResult:
        assert not self._waiting, "a step while others are not read"
        assert batch.origins is None
        result = self.compute(replace(batch, sampling=None, shown=None))
        if batch.sampling is None or result.logits is None:
            return result
        tokens = pick(result.logits, batch.sampling)
        if batch.shown is None:
            return replace(result, logits=None, token_ids=tokens)
        self.shown.append(len(batch.shown))
        tokens[batch.shown] = -1  # nobody reads them
        return replace(result, logits=result.logits[batch.shown].copy(), token_ids=tokens)

    def launch(self, batch: TokenBatch) -> Callable[[], StepResult]:
        assert len(self._waiting) < 2
        sampling = batch.sampling
        assert sampling is not None
        assert batch.shown is batch.hidden_rows is batch.pictures is None
        assert (batch.origins is not None) <= bool(self._waiting)
        self.launched += 1
        number = self.launched
        if number == self.refusing:
            raise ValueError("the device refuses")
        self.behind += bool(self._waiting)
        copied = {
            name: array.copy()
            for name in ("token_ids", "positions", "starts", "lengths", "block_tables", "logit_rows", "origins")
            if (array := getattr(batch, name)) is not None
        }
        batch = replace(batch, **copied)

        def compute() -> np.ndarray:
            if number == self.failing:
                raise RuntimeError("the device fails")
            ids = batch.token_ids
            if batch.origins is not None:
                ids = np.where(batch.origins < 0, ids, np.maximum(self._tokens[batch.origins], 0)).astype(np.int32)
            logits = self.compute(replace(batch, token_ids=ids, origins=None, sampling=None)).logits
            assert logits is not None
            self._tokens = pick(logits, sampling)
            return self._tokens.copy()

        self._waiting.append(compute)
        self.unread = max(self.unread, len(self._waiting))

        def wait() -> StepResult:
            assert self._waiting[0] is compute, "steps are read in another order"
            self._waiting.popleft()
            return StepResult(token_ids=compute())

        return wait

    def copy_blocks(self, pairs: Any) -> None:
        assert not self._waiting
        self.session.copy_blocks(pairs)


@dataclass(slots=True)
class Ahead(Engine):
    """An engine that obeys when what was launched was read, as its thread does."""

    device: Device = field(init=False)

    def __post_init__(self) -> None:
        self.device = Device(self.model.session)
        self.model = replace(self.model, session=self.device)
        Engine.__post_init__(self)

    def _obey(self) -> None:
        if self.loop._flight is not None and self.loop._commands:
            self.loop._turn()
            assert self.loop._flight is None
        Engine._obey(self)

    def preempt(self, number: int) -> None:
        self.loop._command(lambda: None)
        self._obey()
        Engine.preempt(self, number)
