"""The samples of one task: independent outputs of one prompt, whose KV they share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.engine.token.submission import NO_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Sequence as Items

    from inferd.core.task import FinishReason, Usage
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.submission import Continuation, Share


class Samples:
    """The sequences of one task. The first one reads the prompt; the others take its KV over. One writer: the loop.

    Args:
        sequences: One for each sample, in their order.
        share: See below.

    Attributes:
        leader: The first sample.
        followers: The samples that wait until it has read the prompt.
        living: The samples that have not ended.
        share: Whose it is, and what it was expected to cost.
    """

    __slots__ = ("_all", "followers", "leader", "living", "share")

    def __init__(self, sequences: Items[Sequence], share: Share = NO_SHARE) -> None:
        self._all = tuple(sequences)
        self.leader = self._all[0]
        self.living = list(self._all)
        self.share = share
        self.followers = list(self._all[1:])

    def restore(self, continuation: Continuation) -> None:
        """Take what the task told in an engine that lost it; samples that have told something read the prompt again."""
        for number, told in continuation.samples.items():
            self._all[number].restore(told)
        self.living = [sequence for sequence in self._all if sequence.finish is None]
        if continuation.cached_tokens is not None:
            self.leader.place.resume(continuation.cached_tokens)
        if continuation.prompt_told:
            self.leader.report.pass_over()
        if continuation.samples:
            self.followers = []

    def release(self) -> list[Sequence]:
        """The first sample has read the prompt: those that waited for that."""
        followers, self.followers = self.followers, []
        return followers

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self._all) > 1

    @property
    def constrained(self) -> bool:
        """Whether they follow a grammar."""
        return self.leader.constraint is not None

    @property
    def measured(self) -> bool:
        """Whether it is told how likely their tokens were."""
        return self.leader.sampling.measured

    @property
    def ready(self) -> list[Sequence]:
        """Those of `living` that can have a place: until the first one has read the prompt it alone."""
        return [self.leader] if self.followers else list(self.living)

    @property
    def reason(self) -> FinishReason | None:
        """Why the task ended: the reason of the first sample."""
        return self.leader.finish

    @property
    def usage(self) -> Usage:
        """Tokens in and out: the prompt counts once."""
        each = [sequence.usage for sequence in self._all]
        return replace(
            each[0],
            output_tokens=sum(usage.output_tokens for usage in each),
            drafted_tokens=sum(usage.drafted_tokens for usage in each),
            accepted_tokens=sum(usage.accepted_tokens for usage in each),
        )


def release(read: Items[Sequence], tasks: Mapping[int, Samples], follow: Callable[[Sequence, Sequence], None]) -> None:
    """Let samples have places whose prompt was read; `follow` is given each with the first one of its task."""
    for leader in read:
        if leader.sample == 0:
            for follower in tasks[leader.handle].release():
                follow(follower, leader)
