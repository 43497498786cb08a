"""The computation of a step: what the session is asked for, and what its results are used for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inferd.core.vigil import Doing
from inferd.engine.token.results import Results

if TYPE_CHECKING:
    from inferd.core.task_events import Logprobs
    from inferd.engine.activity import Activity
    from inferd.engine.token.adapters import Adapters
    from inferd.engine.token.grammar import Following
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.room import Constraint
    from inferd.engine.token.sampler import Ids, Sampler
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.sources import Sources
    from inferd.engine.token.step import Step
    from inferd.plugin import TokenBatch, TokenSession
    from inferd.plugin.session import Float32Array


class Forward:
    """Computes steps. One writer: the thread of the steps.

    Args:
        session: Of the model.
        bounds: What it can do.
        sampler: Chooses the tokens where the session does not.
        following: Masks the logits of sequences that have a grammar.
        activity: Told when blocks are copied and when the step begins.
        sources: What sequences are written of.
        adapters: What they are computed with.
    """

    def __init__(
        self,
        session: TokenSession,
        bounds: Bounds,
        *,
        sampler: Sampler,
        following: Following,
        activity: Activity,
        sources: Sources,
        adapters: Adapters,
    ) -> None:
        self._session = session
        self._samples = session.limits.samples
        self._bounds = bounds
        self._sampler = sampler
        self._activity = activity
        self._sources = sources
        self._adapters = adapters
        self._following = following
        self._results = Results()

    def compute(self, step: Step, constraints: list[tuple[int, Constraint]]) -> tuple[Ids, Float32Array | None]:
        """The tokens of the sequences that are sampled, and the logits that they were chosen from if they came here.

        Args:
            step: What is computed.
            constraints: What outputs of those that are sampled must be, by place; of the others anything.

        Raises:
            Exception: The session raised, or its result is not what was asked for.
        """
        self._results.refused = False
        if step.copies:
            self._activity.begin(Doing.COPY, len(step.copies))
            self._session.copy_blocks(step.copies)
        self._activity.begin(Doing.STEP, len(step.batch.token_ids))
        if (sources := self._sources.numbers(step.sequences)) is not None:
            step = step._replace(batch=replace(step.batch, sources=sources))
        if step.batch.pictures is not None:
            step = step._replace(batch=replace(step.batch, advance=self._activity.advance))
        if (slots := self._adapters.numbers(step.sequences)) is not None:
            step = step._replace(batch=replace(step.batch, adapters=slots))
        rows, positions = step.rows, step.positions
        if self._samples and len(positions) and not constraints and not step.scored:
            sampling = self._sampler.for_device(positions, rows=rows)
            if sampling is not None:
                return self._compute_tokens(step, replace(step.batch, sampling=sampling)), None
        self._following.begin(constraints, rows=len(step.sampled))
        result = self._results.step(self._session, step.batch)
        shape = (len(step.batch.logit_rows), self._bounds.vocabulary_size)
        logits = _give_scores(step, self._results.floats("logits", result.logits, shape))
        self._give_hidden(step, result.hidden)
        masks = self._following.finish()
        if (owners := step.owners) is not None and masks is not None:
            masks = masks[owners]
        return self._sampler.choose(logits, positions, rows=rows, masks=masks), logits

    @property
    def refused(self) -> bool:
        """Whether the session refused the batch of the last step."""
        return self._results.refused

    @property
    def pictures(self) -> tuple[int, int]:
        """How many pictures the last step computed, and how many it found kept."""
        return self._results.pictures

    def measure(self, step: Step, ids: Ids, logits: Float32Array) -> dict[Sequence, Logprobs]:
        """How likely the tokens were that `compute` gave, of the sequences that ask for it."""
        owners = step.owners
        measured = self._sampler.measure(logits, ids, rows=step.rows)
        # Only sequences without drafts ask for it: one row is each's.
        return {step.sampled[at if owners is None else owners[at]]: logprobs for at, logprobs in measured.items()}

    def _compute_tokens(self, step: Step, batch: TokenBatch) -> Ids:
        """The tokens that the session chose itself."""
        result = self._results.step(self._session, batch)
        self._give_hidden(step, result.hidden)
        size = self._bounds.vocabulary_size
        return self._results.token_ids(result.token_ids, count=len(batch.logit_rows), vocabulary_size=size)

    def _give_hidden(self, step: Step, hidden: Float32Array | None) -> None:
        """Give the hidden states of prompts to those that make embeddings."""
        if not step.pooled:
            return
        shape = (sum(each.count for each in step.pooled), self._bounds.embedding_size)
        hidden = self._results.floats("hidden", hidden, shape)
        begin = 0
        for each in step.pooled:
            each.pool.add(hidden[begin : begin + each.count])
            begin += each.count


def _give_scores(step: Step, logits: Float32Array) -> Float32Array:
    """Give the logits of prompts to those that score them; the logits of the sequences that are sampled."""
    if not step.scored:
        return logits
    for each in step.scored:
        first = int(np.searchsorted(step.batch.logit_rows, each.place))
        each.scores.add(logits[first : first + each.count], each.begin)
    return logits[np.searchsorted(step.batch.logit_rows, step.picks)]
