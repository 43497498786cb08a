"""Whose prompt is read next, and how much of the model each tenant has had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inferd.engine.token.virtual_time import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.core.ids import Tenant
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.submission import Share

MOST_PASSED: Final = 16
"""Steps in a row in which a class with prompts to read may get none of them read; then its next one goes first."""

Key = tuple[float, float, float, int, int]


class Turn:
    """Where a task stands among those whose prompts are to be read; its samples share it. One writer: `Turns`.

    Attributes:
        share: Whose it is.
        order: Among the prompts of its tenant, lowest first.
        read: Tokens of its prompt that went into steps, those that were computed again too.
        charged: Tokens that its tenant was charged for it.
        begun: The virtual start of the first part of its prompt; None before that.
        ended: Whether its prompt has been read once.
    """

    __slots__ = ("begun", "charged", "ended", "order", "read", "share")

    def __init__(self, share: Share, order: float) -> None:
        self.share = share
        self.order = order
        self.read = 0
        self.charged = 0.0
        self.begun: float | None = None
        self.ended = False


class _Reader:
    """A tenant in a class: how many tasks it has here, and how many tokens of prompts it has read since the first."""

    __slots__ = ("read", "tasks")

    def __init__(self) -> None:
        self.read = self.tasks = 0


class Turns:
    """The order in which prompts are read, part by part.

    The highest class first. In a class the tenant goes first whose next part has the smallest virtual start
    (`VirtualTime`): each part brings its tenant's next one further back by its tokens over the tenant's weight, the
    last one by the expected output, too. So whoever comes while another's long prompt is read goes before the rest of
    it, and two that read all the time get tokens by weight.

    Of a tenant's own prompts the one goes first that would end first if each was read from its coming on: a short one
    passes a long one, equal ones keep their order, and no prompt is passed by one that comes after its tenant has read
    as many tokens as it has itself.

    A class that has got nothing in `MOST_PASSED` steps in a row, though it had a prompt to read, goes first once.

    One writer: `Places`.
    """

    def __init__(self) -> None:
        self._times: dict[int, VirtualTime] = {}  # by class, as the others
        self._readers: dict[tuple[int, Tenant], _Reader] = {}
        self._passed: dict[int, int] = {}

    def join(self, priority: int, share: Share, prompt_tokens: int) -> Turn:
        """A task comes, to have its prompt read: its turn."""
        reader = self._readers.setdefault((priority, share.tenant), _Reader())
        reader.tasks += 1
        return Turn(share, reader.read + prompt_tokens)

    def leave(self, leader: Sequence, tokens: int) -> None:
        """The task of `leader`, which joined, has ended and cost so many tokens."""
        turn, priority = leader.place.turn, leader.priority
        if turn is None:
            return
        whose = priority, turn.share.tenant
        self._readers[whose].tasks -= 1
        if not self._readers[whose].tasks:
            del self._readers[whose]
        if turn.begun is not None:
            self._times[priority].end(turn.begun)
            self._times[priority].settle(turn.share.tenant, (turn.charged - tokens) / turn.share.weight)

    def start_anew(self) -> None:
        """No task is left: all start anew."""
        self._times.clear()
        self._passed.clear()

    def key(self, sequence: Sequence) -> Key:
        """Where a sequence stands, lowest first."""
        group, tag, order = self.group(sequence.priority), 0.0, 0.0
        turn = sequence.place.turn
        if turn is not None:
            tag, order = self.tag(sequence.priority, turn.share.tenant), turn.order
        return (group, tag, order, sequence.handle, sequence.sample)

    def group(self, priority: int) -> float:
        """Where a class stands, lowest first."""
        return -priority if self._passed.get(priority, 0) < MOST_PASSED else float("-inf")

    def tag(self, priority: int, tenant: Tenant) -> float:
        """The virtual start of a tenant's next part in a class."""
        time = self._times.get(priority)
        return 0.0 if time is None else time.next_start(tenant)

    def read(self, sequence: Sequence, tokens: int, *, ends: bool) -> None:
        """So many tokens of a sequence go into the step; `ends` when no more are to be read."""
        turn, priority = sequence.place.turn, sequence.priority
        self._passed.pop(priority, None)
        if turn is None:
            return
        time = self._times.setdefault(priority, VirtualTime())
        cost = float(tokens)
        if ends and not turn.ended:
            turn.ended = True
            cost += max(0.0, turn.share.expected_tokens - len(sequence.prompt))
        start = time.start(turn.share.tenant, cost / turn.share.weight)
        if turn.begun is None:
            turn.begun = start
        else:
            time.end(start)  # whoever comes now starts there: nobody is owed what this prompt has taken so far
        turn.charged += cost
        turn.read += tokens
        self._readers[priority, turn.share.tenant].read += tokens

    def pass_over(self, priorities: Iterable[int]) -> None:
        """A step begins, and these classes have prompts to read; what they get is told by `read`."""
        here = set(priorities)
        self._passed = {priority: self._passed.get(priority, 0) + 1 for priority in here}
