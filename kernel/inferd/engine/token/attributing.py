"""What tokens are worth for those behind them, told by the session: one sequence between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inferd.core.vigil import Doing
from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd.plugin.session import AttributingSession, AttributionPass

if TYPE_CHECKING:
    from inferd.engine.activity import Activity
    from inferd.engine.token.samples import Samples
    from inferd.engine.work import Attributed
    from inferd.plugin import Attribution, TokenSession


def attributions_of(session: TokenSession) -> frozenset[Attribution]:
    """By what a session tells what tokens are worth; nothing where it does not."""
    return session.attributions if isinstance(session, AttributingSession) else frozenset()


def check_attributed(asked: Attributed, known: frozenset[Attribution]) -> None:
    """Refuse what a session does not tell.

    Raises:
        UnsupportedInputError: It does not.
    """
    if asked.method not in known:
        names = ", ".join(sorted(each.name for each in known)) or "nothing"
        raise UnsupportedInputError(
            f"the backend of this model does not tell what tokens are worth by {asked.method.name}; it tells it by"
            f" {names}",
            field="spec.method",
        )


def check_tokens(asked: Attributed, tokens: int, vocabulary_size: int) -> None:
    """Refuse what does not fit a sequence.

    Raises:
        InvalidFieldError: It has fewer tokens, or the network no such token.
    """
    if not 0 < asked.told < tokens or max(asked.places, default=0) >= tokens - asked.told:
        raise InvalidFieldError(
            f"the sequence has {tokens} tokens, of which the last {asked.told} are to be explained by those at places"
            f" up to {max(asked.places, default=0)}",
            field="spec.answer",
        )
    if asked.baseline_id >= vocabulary_size:
        raise InvalidFieldError(
            f"token id {asked.baseline_id} is outside the model's vocabulary of {vocabulary_size} tokens",
            field="spec.input",
        )


class Attributing:
    """Has the session tell what tokens are worth. One writer: the thread of the steps.

    Args:
        session: Of the model.
        activity: Told when something is computed.
    """

    def __init__(self, session: TokenSession, activity: Activity) -> None:
        self._session = session if isinstance(session, AttributingSession) else None
        self._activity = activity
        self._asked: dict[int, tuple[Samples, Attributed, bool]] = {}  # by handle

    @property
    def waiting(self) -> bool:
        """Whether something is to be computed."""
        return bool(self._asked)

    def put(self, task: Samples, asked: Attributed, *, alone: bool) -> None:
        """A task, which may have to run alone, asks something."""
        self._asked[task.leader.handle] = (task, asked, alone)

    def drop(self, handle: int) -> None:
        """A task has ended; nothing to do for one that asks nothing."""
        self._asked.pop(handle, None)

    def next(self) -> tuple[Samples, bool]:
        """The task that is seen to next, of the highest class the first that came; whether it must run alone."""
        handle = min(self._asked, key=lambda each: (-self._asked[each][0].leader.priority, each))
        task, _, alone = self._asked[handle]
        return task, alone

    def read(self, task: Samples) -> tuple[float, ...]:
        """What a task asks.

        Raises:
            ValueError: The session gave another number of numbers, or some that are not finite.
            Exception: The session raised.
        """
        _, asked, _ = self._asked.pop(task.leader.handle)
        prompt: Any = task.leader.prompt
        self._activity.begin(Doing.STEP, len(prompt))
        if self._session is None:
            raise ValueError("the session tells nothing of tokens")
        found = self._session.attribute(
            AttributionPass(
                method=asked.method,
                token_ids=prompt,
                told=asked.told,
                places=np.array(asked.places, np.int64),
                baseline_id=asked.baseline_id,
                at=asked.at,
                advance=self._activity.advance,
            )
        )
        if found.shape != (len(prompt) - asked.told,) or not np.isfinite(found).all():
            raise ValueError(
                f"AttributingSession.attribute gave numbers of shape {found.shape}, not all of them finite, or not one"
                f" for each of {len(prompt) - asked.told} tokens"
            )
        return tuple(found.tolist())
