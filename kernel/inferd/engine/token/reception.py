"""Where tasks come in: their inputs become sequences beside the steps."""

from __future__ import annotations

import logging
import queue
import threading
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.engine.cause import last_line
from inferd.engine.leash import Leash
from inferd.engine.token.gate import NO_STANDING, Gate, Standing, Ticket
from inferd.engine.token.prefix import PrefixChain
from inferd.engine.token.samples import Samples
from inferd.engine.token.sequence import Origin
from inferd.engine.token.submission import Submission
from inferd.engine.work import TokenInput
from inferd.errors import InferdError, InternalError, is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.token.grammar import Grammars
    from inferd.engine.token.intake import Intake
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.room import Constraint

PATIENCE_S: Final = 0.05
"""How long a task that is slow to prepare delays the next one."""

AT_ONCE: Final = 6
"""Tasks that are slow to prepare, at the same time: each may have a cell that works for it."""

EACH: Final = 4
"""Those of one tenant."""

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


class _Errand(Ticket):
    """What is to be prepared, on its way to a thread.

    Args:
        item: See `Reception`.

    Attributes:
        leash: Ends it.
        begun: It has its turn, or had it.
        ended: It is over.
    """

    def __init__(self, item: Submission | Callable[[Intake], None]) -> None:
        super().__init__(_standing(item) if isinstance(item, Submission) else NO_STANDING)
        self.item = item
        self.leash = Leash(apart=isinstance(item, Submission) and item.alone)
        self.begun = False
        self.ended = threading.Event()


def _standing(submission: Submission) -> Standing:
    return Standing(priority=submission.priority, share=submission.share)


class Reception:
    """Makes samples of submissions, beside the steps: a long prompt delays no step.

    What is slow for one task delays the next by `PATIENCE_S` at most. Where more are slow at once than `AT_ONCE`, or
    than `EACH` of a tenant, they wait for their turn by class and tenant (`Gate`); their own times begin with that.
    Grammars delay no other task at all. `run` belongs to a thread of its own; everything else comes from any thread.

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
        self._turns: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()  # for the threads of `run`
        self._gate: Gate[_Errand] = Gate(most=AT_ONCE, each=EACH)
        self._errands: dict[int, _Errand] = {}  # by handle: those that wait for their turn or have it
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
            errand = self._errands.pop(handle, None)
            if errand is not None and not self._gate.withdraw(errand):
                errand.leash.pull()
        if withdraw is not None:
            withdraw()
        return known

    def withdraw_all(self) -> None:
        """Forget all submissions."""
        with self._lock:
            self._coming.clear()
            withdrawals = list(self._withdrawals.values())
            self._withdrawals.clear()
            for errand in self._errands.values():
                if not self._gate.withdraw(errand):
                    errand.leash.pull()
            self._errands.clear()
        for withdraw in withdrawals:
            withdraw()

    def close(self) -> None:
        """Let `run` return when it has begun with what was put before."""
        self._items.put(None)

    def run(self) -> None:
        """Prepare what comes, until `close`."""
        for number in range(AT_ONCE):  # now: later there may be none left
            threading.Thread(target=self._work, name=f"intake {number}", daemon=True).start()
        while self.turn():
            pass
        for _ in range(AT_ONCE):
            self._turns.put(None)

    def turn(self) -> bool:
        """See to the next item, waiting for it; False when there will be no more.

        One that is slow goes on in another thread after `PATIENCE_S`, so that order is kept where nothing is.
        """
        item = self._items.get()
        if item is None:
            return False
        if isinstance(item, Submission) and self._intake.is_quick(item.task_input, item.sampling, apart=item.alone):
            self._prepare(item, Leash())
            return True
        errand = _Errand(item)
        with self._lock:
            if isinstance(item, Submission):
                if item.handle not in self._coming:
                    return True  # it was withdrawn
                self._errands[item.handle] = errand
            self._gate.wait(errand)
        self._give_turns()
        if errand.begun:
            errand.ended.wait(PATIENCE_S)
        return True

    def _give_turns(self) -> None:
        while True:
            with self._lock:
                errand = self._gate.next()
                if errand is None:
                    return
                errand.begun = True
            self._turns.put(errand)

    def _work(self) -> None:
        while (errand := self._turns.get()) is not None:
            self._see_to(errand)

    def _see_to(self, errand: _Errand) -> None:
        item = errand.item
        try:
            if isinstance(item, Submission):
                self._prepare(item, errand.leash)
            else:
                item(self._intake)
        except ConnectionError:
            pass  # the kernel is gone, and so will be this process
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("a task could not be taken in")
        finally:
            errand.ended.set()
            with self._lock:
                self._gate.end(errand)
                if isinstance(item, Submission) and self._errands.get(item.handle) is errand:
                    del self._errands[item.handle]
            self._give_turns()

    def _prepare(self, submission: Submission, leash: Leash) -> None:
        if submission.handle not in self._coming:
            return
        task = self._try_to_accept(submission, leash)
        grammar = submission.sampling.grammar
        if grammar is None or isinstance(task, InferdError) or not task.living:
            self._pass_on(submission, task)
            return
        take = partial(self._constrain, submission, task)
        count, standing = len(task.living), _standing(submission)
        ignore_ends = self._intake.ignores_ends(submission.sampling)
        try:
            withdraw = self._grammars.open(grammar, take, count=count, ignore_ends=ignore_ends, standing=standing)
        except (OSError, RuntimeError) as error:  # something is used up: the others go on
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

    def _try_to_accept(self, submission: Submission, leash: Leash) -> Samples | InferdError:
        try:
            return self._accept(submission, leash)
        except InferdError as error:
            return error
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("the input of a task could not be prepared")
            return InternalError(f"the input cannot be prepared: {last_line(error)}")

    def _accept(self, submission: Submission, leash: Leash) -> Samples:
        """The samples of a task; their prompt is tokenised once."""
        if submission.check is not None:
            submission.check(self._intake)
        origin = self._origin(submission)
        if submission.attributed is not None:
            sequences = [self._intake.attribute(origin, submission.task_input, submission.attributed)]
        elif submission.embedding is not None:
            sequences = [self._intake.embed(origin, submission.task_input, submission.embedding, leash)]
        else:
            first, *others = submission.sampling.samples
            given: Any = {"script": submission.script, "allowed_output": submission.allowed_output}
            sequences = [self._intake.accept(origin, submission.task_input, first, leash, **given)]
            if others:
                prompt = TokenInput(array("I", sequences[0].prompt.tobytes()), sequences[0].pictures)
                sequences += [
                    self._intake.accept(self._origin(submission, sample), prompt, each, leash, **given)
                    for sample, each in enumerate(others, start=1)
                ]
        samples = Samples(sequences, submission.share)
        if submission.continuation is not None:
            samples.restore(submission.continuation)
        return samples

    def _origin(self, submission: Submission, sample: int = 0) -> Origin:
        """Whose a sample is.

        A task that does not share has a salt that no other has: so its samples, and it itself when it is preempted,
        still find what it computed.
        """
        handle, shares = submission.handle, submission.prefix_cache
        salt = b"shared" + submission.salt if shares else b"own" + handle.to_bytes(8, "little")
        chain = PrefixChain(salt=salt, block_tokens=self._bounds.block_tokens, lasting=shares)
        return Origin(handle, sample, submission.priority, chain)
