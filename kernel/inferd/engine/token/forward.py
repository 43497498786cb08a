"""The computation of a step: what the session is asked for, and what its results are used for."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inferd.core.vigil import Doing
from inferd.engine.token.results import Results
from inferd.plugin import AheadSession
from inferd.plugin.session import SourcedSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.task_events import Logprobs
    from inferd.engine.activity import Activity
    from inferd.engine.token.adapters import Adapters
    from inferd.engine.token.grammar import Following
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.room import Constraint
    from inferd.engine.token.rules import Masks
    from inferd.engine.token.sampler import Bools, Ids, Sampler
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.sources import Sources
    from inferd.engine.token.step import Step
    from inferd.plugin import DeviceSampling, StepResult, TokenSession
    from inferd.plugin.session import Float32Array


class Seen(NamedTuple):
    """Logits that came to the host, from which tokens were chosen.

    Attributes:
        logits: Shape (K, V).
        places: Of the tokens of the step which these are, shape (K,); None for all, in order.
    """

    logits: Float32Array
    places: Ids | None


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
        limits = session.limits
        self._samples, self._mixes = limits.samples, limits.samples and limits.mixes
        # Guesses are made of tokens; and what was computed in vain would have to be taken back.
        bound = bounds.draft_tokens or bounds.border_tokens or bounds.window_blocks or bounds.forward_only
        forgets = isinstance(session, SourcedSession)  # with each task that ends, while others are on their way
        leads = limits.samples and limits.ahead and not (bound or forgets)
        self._ahead = session if leads and isinstance(session, AheadSession) else None
        self._bounds = bounds
        self._sampler = sampler
        self._activity = activity
        self._sources = sources
        self._adapters = adapters
        self._following = following
        self._results = Results()

    def compute(self, step: Step, constraints: list[tuple[int, Constraint]]) -> tuple[Ids, Seen | None]:
        """The tokens of the sequences that are sampled, and the logits that they were chosen from if they came here.

        Args:
            step: What is computed.
            constraints: What outputs of those that are sampled must be, by place; of the others anything.

        Raises:
            Exception: The session raised, or its result is not what was asked for.
        """
        step = self._prepare(step)
        rows, positions = step.rows, step.positions
        kept = self._keep(step, constraints)
        if kept is not None and not kept.any() and not step.scored:
            batch = replace(step.batch, sampling=self._sampler.for_device(positions, rows=rows))
            result = self._results.step(self._session, batch)
            self._give_hidden(step, result.hidden)
            return self._take_tokens(result, len(positions)), None
        self._following.begin(constraints, rows=len(step.sampled))
        if kept is not None and self._mixes and not kept.all():
            return self._compute_mixed(step, kept)
        result = self._results.step(self._session, step.batch)
        wanted = np.arange(len(step.batch.logit_rows))
        logits = self._results.floats("logits", result.logits, (len(wanted), self._bounds.vocabulary_size))
        _give_scores(step, logits, wanted)
        self._give_hidden(step, result.hidden)
        logits = logits if not step.scored else logits[step.pick_places]
        masks = self._masks(step)
        return self._sampler.choose(logits, positions, rows=rows, masks=masks), Seen(logits, None)

    def launch(self, step: Step) -> Callable[[], tuple[Ids, None]] | None:
        """Begin a step behind which another may be begun; what waits for its tokens. None where it is to be computed.

        Raises:
            Exception: The session raised.
        """
        session = self._ahead
        if session is None or not step.plain or self._sampler.keeps(step.rows, len(step.sampled)).any():
            return None
        step = self._prepare(step)
        sampling = self._sampler.for_device(step.positions, rows=step.rows)
        batch, count = replace(step.batch, sampling=sampling), len(step.batch.token_ids)
        wait = self._results.launch(session, batch)
        self._activity.begin(Doing.SCHEDULE)

        def take() -> tuple[Ids, None]:
            self._activity.begin(Doing.STEP, count)
            return self._take_tokens(wait(), len(batch.logit_rows)), None

        return take

    @property
    def refused(self) -> bool:
        """Whether the session refused the batch of the last step."""
        return self._results.refused

    @property
    def pictures(self) -> tuple[int, int]:
        """How many pictures the last step computed, and how many it found kept."""
        return self._results.pictures

    def measure(self, step: Step, ids: Ids, seen: Seen) -> dict[Sequence, Logprobs]:
        """How likely the tokens were that `compute` gave, of the sequences that ask for it."""
        owners, rows, places = step.owners, step.rows, seen.places
        if places is not None:
            rows, ids = places if rows is None else rows[places], ids[places]
        measured = self._sampler.measure(seen.logits, ids, rows=rows)
        found = {at if places is None else int(places[at]): logprobs for at, logprobs in measured.items()}
        # Only sequences without drafts ask for it: one row is each's.
        return {step.sampled[at if owners is None else owners[at]]: logprobs for at, logprobs in found.items()}

    def _prepare(self, step: Step) -> Step:
        """Copy the blocks that are to be, and add to the batch what sequences are computed with."""
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
        return step

    def _keep(self, step: Step, constraints: list[tuple[int, Constraint]]) -> Bools | None:
        """For which tokens the logits have to come here; None where all have to, or there is none to choose."""
        count = len(step.picks)
        if not self._samples or not count:
            return None
        kept = self._sampler.keeps(step.rows, count)
        if constraints:
            bound = np.isin(np.arange(len(step.sampled)), [place for place, _ in constraints])
            kept |= bound if (owners := step.owners) is None else bound[owners]
        return None if (kept.any() or step.scored) and not self._mixes else kept

    def _compute_mixed(self, step: Step, kept: Bools) -> tuple[Ids, Seen | None]:
        """Tokens that are chosen by the session, but for those that are kept here, and for what is scored."""
        count, positions, picks = len(step.batch.logit_rows), step.positions, step.pick_places
        rows = np.arange(len(kept)) if step.rows is None else step.rows
        wanted = np.ones(count, np.bool_)
        wanted[picks[~kept]] = False
        for each in step.scored:
            first = int(np.searchsorted(step.batch.logit_rows, each.place))
            wanted[first : first + each.count] = True
        shown = np.flatnonzero(wanted)
        sampling = _spread(self._sampler.for_device(positions, rows=rows), picks, kept, count)
        batch = replace(step.batch, sampling=sampling, shown=shown.astype(np.int32))
        result = self._results.step(self._session, batch)
        logits = self._results.floats("logits", result.logits, (len(shown), self._bounds.vocabulary_size))
        ids = self._take_tokens(result, count)[picks]
        where = np.cumsum(wanted) - 1
        _give_scores(step, logits, where)
        self._give_hidden(step, result.hidden)
        places = np.flatnonzero(kept)
        masks = self._masks(step)
        own = logits[where[picks[places]]]
        given = None if masks is None else masks[places]
        ids[places] = self._sampler.choose(own, positions[places], rows=rows[places], masks=given)
        return ids, Seen(own, places)

    def _masks(self, step: Step) -> Masks | None:
        """Which tokens are allowed, for each that is chosen."""
        masks = self._following.finish()
        owners = step.owners
        return masks if masks is None or owners is None else masks[owners]

    def _take_tokens(self, result: StepResult, count: int) -> Ids:
        """The tokens that the session chose itself."""
        size = self._bounds.vocabulary_size
        return self._results.token_ids(result.token_ids, count=count, vocabulary_size=size)

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


def _give_scores(step: Step, logits: Float32Array, where: Ids) -> None:
    """Give the logits of prompts to those that score them; `where` they are, for each place in `logit_rows`."""
    for each in step.scored:
        first = int(where[np.searchsorted(step.batch.logit_rows, each.place)])
        each.scores.add(logits[first : first + each.count], each.begin)


def _spread(sampling: DeviceSampling, picks: Ids, kept: Bools, count: int) -> DeviceSampling:
    """What tokens are chosen by, for each of `count` rows of logits: those that nobody asks for are greedy."""
    columns = {}
    for field in fields(sampling):
        given = getattr(sampling, field.name)
        columns[field.name] = np.zeros(count, given.dtype)
        columns[field.name][picks[~kept]] = given[~kept]
    return replace(sampling, **columns)
