"""What is computed between two steps for one task: what a text is written of, what tokens are worth."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from inferd.engine.cause import placed_line
from inferd.engine.token.attributing import Attributing
from inferd.errors import is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.activity import Activity
    from inferd.engine.token.samples import Samples
    from inferd.engine.token.sources import Sources
    from inferd.engine.token.submission import Submission
    from inferd.plugin.session import TokenSession

_log = logging.getLogger(__name__)


class Apart:
    """Has a session compute for one task between two steps. One writer: the thread of the steps.

    Args:
        session: Of the model.
        sources: Read what texts are written of.
        activity: Told when something is computed.
        announce: Tells that a task is computed alone, before the worker can die of it.
        fail: Ends a task of which nothing was computed, with the cause.
        tell: Ends a task with the numbers that it asked for.
        start: Gives a task a place, whose source was read; the other says whether it has to run alone.
    """

    def __init__(
        self,
        session: TokenSession,
        sources: Sources,
        activity: Activity,
        *,
        announce: Callable[[int], None],
        fail: Callable[[Samples, str], None],
        tell: Callable[[Samples, tuple[float, ...]], None],
        start: Callable[[Samples, bool], None],
    ) -> None:
        self._session = session
        self._sources = sources
        self._attributing = Attributing(session, activity)
        self._rests_until = 0.0  # on the monotonic clock
        self._announce = announce
        self._fail = fail
        self._tell = tell
        self._start = start

    @property
    def waiting(self) -> bool:
        """Whether something is to be computed."""
        return self._sources.waiting or self._attributing.waiting

    def put(self, task: Samples, submission: Submission) -> bool:
        """Take a task if something of it is computed apart; says whether it is."""
        if submission.source is not None:
            self._sources.put(task, submission.source, alone=submission.alone)
        elif submission.attributed is not None:
            self._attributing.put(task, submission.attributed, alone=submission.alone)
        else:
            return False
        return True

    def drop(self, handle: int) -> None:
        """A task has ended; nothing to do for one of which nothing is computed apart."""
        self._sources.drop(handle)
        self._attributing.drop(handle)

    def see_to(self, *, beside: bool) -> None:
        """Compute for one task that is written of something, and for one that asks what tokens are worth.

        The latter is a whole sequence and its way back: `beside` others that write it takes half of the time at most.
        """
        if self._sources.waiting:
            self._compute(self._sources)
        if self._attributing.waiting and not (beside and monotonic() < self._rests_until):
            begun = monotonic()
            self._compute(self._attributing)
            self._rests_until = 2 * monotonic() - begun

    def _compute(self, each: Sources | Attributing) -> None:
        task, alone = each.next()
        if alone:
            self._announce(task.leader.handle)
        try:
            numbers = each.read(task)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("the backend could not read what a task is of")
            self._fail(task, placed_line(error, self._session))
            return
        if numbers is None:
            self._start(task, alone)
        else:
            self._tell(task, numbers)
