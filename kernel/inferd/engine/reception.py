"""Where tasks come in: their inputs become sequences beside the steps."""

from __future__ import annotations

import logging
import queue
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from inferd.core.task import TokenInput
from inferd.engine.cause import last_line
from inferd.engine.drafts import Drafter
from inferd.engine.prefix import PrefixChain
from inferd.engine.samples import Samples, derive
from inferd.engine.submission import Submission
from inferd.errors import InferdError, InternalError, UnsupportedInputError, is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.grammar import Grammars
    from inferd.engine.intake import Intake
    from inferd.engine.limits import Bounds
    from inferd.engine.room import Constraint
    from inferd.engine.sequence import Sequence

PATIENCE_S: Final = 0.05
"""How long a task that is slow to prepare delays the next one."""

AT_ONCE: Final = 8
"""Tasks that are prepared at the same time."""

_log = logging.getLogger(__name__)


class Arrive(Protocol):
    """Called for each submission that is not withdrawn, in their order."""

    def __call__(self, submission: Submission, task: Samples | InferdError) -> None:
        """Take what became of a submission; does not block.

        Args:
            submission: What was submitted.
            task: Its samples, or why there are none.
        """
        ...


class Reception:
    """Makes samples of submissions, beside the steps: a long prompt delays no step.

    What is slow for one task delays the next by `PATIENCE_S` at most, as long as fewer than `AT_ONCE` are slow at once;
    grammars delay no other task at all. `run` belongs to a thread of its own; everything else comes from any thread.

    Args:
        intake: Of the model.
        bounds: What the session can do.
        grammars: Of the model; they are opened beside what else comes.
        arrive: See there. A submission that `withdraw` does not know any more has arrived before.
    """

    def __init__(self, intake: Intake, bounds: Bounds, grammars: Grammars, arrive: Arrive) -> None:
        self._intake = intake
        self._grammars = grammars
        self._bounds = bounds
        self._arrive = arrive
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="intake")
        self._items: queue.SimpleQueue[Submission | Callable[[Intake], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._coming: set[int] = set()  # the handles of submissions that have not arrived
        self._withdrawals: dict[int, Callable[[], None]] = {}  # of those that wait for their grammar

    def put(self, submission: Submission) -> None:
        """Take a submission in."""
        with self._lock:
            self._coming.add(submission.handle)
        self._items.put(submission)

    def consult(self, query: Callable[[Intake], None]) -> None:
        """Have `query` called, in turn with the submissions."""
        self._items.put(query)

    def withdraw(self, handle: int) -> bool:
        """Forget a submission; False when it has arrived, or never was."""
        with self._lock:
            known = handle in self._coming
            self._coming.discard(handle)
            withdraw = self._withdrawals.pop(handle, None)
        if withdraw is not None:
            withdraw()
        return known

    def withdraw_all(self) -> None:
        """Forget all submissions."""
        with self._lock:
            self._coming.clear()
            withdrawals = list(self._withdrawals.values())
            self._withdrawals.clear()
        for withdraw in withdrawals:
            withdraw()

    def close(self) -> None:
        """Let `run` return when it has begun with what was put before."""
        self._items.put(None)

    def run(self) -> None:
        """Prepare what comes, until `close`."""
        while self.turn():
            pass
        self._pool.shutdown(wait=False, cancel_futures=True)

    def turn(self) -> bool:
        """See to the next item, waiting for it; False when there will be no more.

        One that is slow goes on in another thread after `PATIENCE_S`, so that order is kept where nothing is.
        """
        item = self._items.get()
        if item is None:
            return False
        if isinstance(item, Submission) and self._intake.is_quick(item.task_input, item.sampling):
            self._prepare(item)
        else:
            wait([self._pool.submit(self._see_to, item)], timeout=PATIENCE_S)
        return True

    def _see_to(self, item: Submission | Callable[[Intake], None]) -> None:
        try:
            if isinstance(item, Submission):
                self._prepare(item)
            else:
                item(self._intake)
        except ConnectionError:
            pass  # the kernel is gone, and so will be this process
        except BaseException:
            _log.exception("a task could not be taken in")
            raise

    def _prepare(self, submission: Submission) -> None:
        if submission.handle not in self._coming:
            return
        task = self._try_to_accept(submission)
        grammar = submission.sampling.grammar
        if grammar is None or submission.embedding is not None or isinstance(task, InferdError):
            self._pass_on(submission, task)
            return
        take = partial(self._constrain, submission, task)
        sampling, count = submission.sampling, len(task.living)
        try:
            withdraw = self._grammars.open(grammar, take, count=count, ignore_ends=sampling.ignore_eos)
        except (OSError, RuntimeError) as error:  # no thread or no descriptor is left: the others go on
            _log.exception("a grammar could not be opened")
            self._pass_on(submission, InternalError(f"the grammar cannot be followed: {last_line(error)}"))
            return
        with self._lock:
            known = submission.handle in self._coming
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
            sequence.follow(constraint)
        if not self._pass_on(submission, task):
            for constraint in found:
                self._grammars.close(constraint)

    def _pass_on(self, submission: Submission, task: Samples | InferdError) -> bool:
        """Let a submission arrive, unless it was withdrawn."""
        with self._lock:  # what is asked for in the meantime finds it either here or arrived
            self._withdrawals.pop(submission.handle, None)
            if submission.handle not in self._coming:
                return False
            self._coming.remove(submission.handle)
            self._arrive(submission, task)
            return True

    def _try_to_accept(self, submission: Submission) -> Samples | InferdError:
        try:
            return self._accept(submission)
        except InferdError as error:
            return error
        except BaseException as error:
            if not is_failure(error):
                raise
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
        samples = Samples(sequences)
        if submission.continuation is not None:
            samples.restore(submission.continuation)
        return samples

    def _drafter(self, sequence: Sequence) -> Drafter | None:
        """Guesses for a sequence whose tokens depend on logits and position alone: then one step can verify them."""
        bound_by_history = sequence.rules is not None and sequence.rules.reads_history
        if not self._bounds.draft_tokens or bound_by_history or sequence.sampling.grammar is not None:
            return None
        return Drafter(most=self._bounds.draft_tokens) if sequence.sampling.logprobs is None else None
