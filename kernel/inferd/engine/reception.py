"""Where tasks come in: their inputs become sequences beside the steps."""

from __future__ import annotations

import logging
import queue
import threading
from array import array
from functools import partial
from typing import TYPE_CHECKING, Protocol

from inferd.core.task import TokenInput
from inferd.engine.cause import last_line
from inferd.engine.drafts import Drafter
from inferd.engine.prefix import PrefixChain
from inferd.engine.samples import Samples, derive
from inferd.engine.submission import Submission
from inferd.errors import InferdError, InternalError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.grammar import Grammars
    from inferd.engine.intake import Intake
    from inferd.engine.limits import Bounds
    from inferd.engine.room import Constraint
    from inferd.engine.sequence import Sequence

_log = logging.getLogger(__name__)


class Arrive(Protocol):
    """Called for each submission that is not withdrawn, in their order."""

    def __call__(self, submission: Submission, task: Samples | InferdError, *, suspended: bool) -> None:
        """Take what became of a submission; does not block.

        Args:
            submission: What was submitted.
            task: Its samples, or why there are none.
            suspended: It is not to run yet.
        """
        ...


class Reception:
    """Makes samples of submissions, in a thread of its own: a long prompt delays no step, a grammar no other task.

    `run` belongs to that thread; everything else comes from any thread.

    Args:
        intake: Of the model.
        bounds: What the session can do.
        grammars: Of the model; they are opened beside what else comes.
        arrive: See there. A submission that `withdraw` or `mark` does not know any more has arrived before.
    """

    def __init__(self, intake: Intake, bounds: Bounds, grammars: Grammars, arrive: Arrive) -> None:
        self._intake = intake
        self._grammars = grammars
        self._bounds = bounds
        self._arrive = arrive
        self._items: queue.SimpleQueue[Submission | Callable[[Intake], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._suspended: dict[int, bool] = {}  # by the handle of each submission that has not arrived
        self._withdrawals: dict[int, Callable[[], None]] = {}  # of those that wait for their grammar

    def put(self, submission: Submission) -> None:
        """Take a submission in."""
        with self._lock:
            self._suspended[submission.handle] = False
        self._items.put(submission)

    def consult(self, query: Callable[[Intake], None]) -> None:
        """Have the thread call `query`, in turn with the submissions."""
        self._items.put(query)

    def withdraw(self, handle: int) -> bool:
        """Forget a submission; False when it has arrived, or never was."""
        with self._lock:
            known = self._suspended.pop(handle, None) is not None
            withdraw = self._withdrawals.pop(handle, None)
        if withdraw is not None:
            withdraw()
        return known

    def mark(self, handle: int, *, suspended: bool) -> bool:
        """Let a submission arrive suspended, or not so; False when it has arrived, or never was."""
        with self._lock:
            if handle not in self._suspended:
                return False
            self._suspended[handle] = suspended
            return True

    def withdraw_all(self) -> None:
        """Forget all submissions."""
        with self._lock:
            self._suspended.clear()
            withdrawals = list(self._withdrawals.values())
            self._withdrawals.clear()
        for withdraw in withdrawals:
            withdraw()

    def close(self) -> None:
        """Let `run` return when it has seen to what was put before."""
        self._items.put(None)

    def run(self) -> None:
        """Prepare what comes, until `close`."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """See to the next item, waiting for it; False when there will be no more."""
        item = self._items.get()
        if isinstance(item, Submission):
            self._prepare(item)
        elif item is not None:
            item(self._intake)
        return item is not None

    def _prepare(self, submission: Submission) -> None:
        if submission.handle not in self._suspended:
            return
        task = self._try_to_accept(submission)
        grammar = submission.sampling.grammar
        if grammar is None or submission.embedding is not None or isinstance(task, InferdError):
            self._pass_on(submission, task)
            return
        take = partial(self._constrain, submission, task)
        sampling, count = submission.sampling, len(task.living)
        withdraw = self._grammars.open(grammar, take, count=count, ignore_ends=sampling.ignore_eos)
        with self._lock:
            known = submission.handle in self._suspended
            if known:
                self._withdrawals[submission.handle] = withdraw
        if not known:  # it has arrived, or was withdrawn meanwhile
            withdraw()

    def _constrain(self, submission: Submission, task: Samples, found: list[Constraint] | InferdError) -> None:
        """Let samples follow their grammar."""
        if isinstance(found, InferdError):
            self._pass_on(submission, found)
            return
        for sequence, constraint in zip(task.living, found, strict=True):
            sequence.constraint = constraint
        if not self._pass_on(submission, task):
            for constraint in found:
                self._grammars.close(constraint)

    def _pass_on(self, submission: Submission, task: Samples | InferdError) -> bool:
        """Let a submission arrive, unless it was withdrawn."""
        with self._lock:  # what is asked for in the meantime finds it either here or arrived
            suspended = self._suspended.pop(submission.handle, None)
            self._withdrawals.pop(submission.handle, None)
            if suspended is not None:
                self._arrive(submission, task, suspended=suspended)
            return suspended is not None

    def _try_to_accept(self, submission: Submission) -> Samples | InferdError:
        try:
            return self._accept(submission)
        except InferdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - an edge to foreign code: tokenizer and template
            _log.exception("the input of a task could not be prepared")
            return InternalError(f"the input cannot be prepared: {last_line(error)}")

    def _accept(self, submission: Submission) -> Samples:
        """The samples of a task; their prompt is tokenised once."""
        handle, sampling = submission.handle, submission.sampling
        if submission.adapter:
            message = (
                f"the backend of this model offers no adapters, so not {submission.adapter!r} either; leave it out"
            )
            raise UnsupportedInputError(message, field="spec.adapter")
        if submission.embedding is not None:
            sequences = [self._intake.embed(handle, submission.task_input, submission.embedding)]
        else:
            sequences = [self._intake.accept(handle, submission.task_input, sampling)]
        if sampling.n > 1 and submission.embedding is None:
            prompt = TokenInput(array("I", sequences[0].prompt.tobytes()))
            sequences += [self._intake.accept(handle, prompt, derive(sampling, n)) for n in range(1, sampling.n)]
        # A task that does not share has a salt that no other has: so its samples, and it itself when it is preempted,
        # still find what it computed.
        salt = b"shared" + submission.salt if submission.prefix_cache else b"own" + handle.to_bytes(8, "little")
        for sample, sequence in enumerate(sequences):
            sequence.rank = (-submission.priority, 0.0, handle, sample)
            sequence.drafter = self._drafter(sequence)
            sequence.chain = PrefixChain(
                salt=salt, block_tokens=self._bounds.block_tokens, lasting=submission.prefix_cache
            )
        return Samples(sequences)

    def _drafter(self, sequence: Sequence) -> Drafter | None:
        """Guesses for a sequence whose tokens depend on logits and position alone: then one step can verify them."""
        bound_by_history = sequence.rules is not None and sequence.rules.reads_history
        if not self._bounds.draft_tokens or bound_by_history or sequence.sampling.grammar is not None:
            return None
        return Drafter(most=self._bounds.draft_tokens) if sequence.sampling.logprobs is None else None
