"""Contents of blocks that a session's logits depend on, found by trying: what a check of blocks has to be done with.

Some models hardly look back. With those a session that mixes up blocks gives the right logits for most texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.testing.batches import Part, compute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inferd.plugin import TokenSession
    from inferd.plugin.session import Float32Array

OWN_TEXTS: Final = 4  # that the model writes itself, when it does not look back in random ones


@dataclass(frozen=True, slots=True)
class Dependence:
    """A text that goes on otherwise behind a decoy, which the blocks hold now, than behind its own beginning.

    Attributes:
        text: Its tokens.
        half: Where the going on begins.
        decoy: As many other tokens.
        expected: The logits of `text` from `half` on.
    """

    text: list[int]
    half: int
    decoy: list[int]
    expected: Float32Array


def find_dependence(
    session: TokenSession,
    text: list[int],
    blocks: Sequence[int],
    *,
    halves: Sequence[int],
    tolerance: float,
    seed: int,
) -> Dependence | None:
    """The first that is found, of the text or of what the model writes itself; None when no contents changed anything.

    Args:
        session: Computes.
        text: To try first; others are as long.
        blocks: Hold so many tokens. What they held is lost.
        halves: Where to go on, the first to be tried first.
        tolerance: Largest difference between logits that are the same.
        seed: Of what the model writes.
    """
    tried: list[list[int]] = []
    for some in (text, *_own_texts(session, text, blocks, seed)):
        alone = compute(session, Part(token_ids=some, blocks=blocks))[0]
        for half in halves:
            for decoy in (some[::-1], *tried):
                before = decoy[:half] if session.limits.forward_only else decoy
                compute(session, Part(token_ids=before, blocks=blocks, wanted=[]))
                behind = compute(session, Part(token_ids=some[half:], begin=half, blocks=blocks))[0]
                if np.abs(behind - alone[half:]).max() > 2 * tolerance:
                    return Dependence(some, half, decoy, alone[half:])
        tried.append(some)
    return None


def _own_texts(session: TokenSession, text: list[int], blocks: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Texts that the model samples, each behind another token of the given one."""
    generator = np.random.default_rng(seed)
    for first in text[:OWN_TEXTS]:
        own = [first]
        while len(own) < len(text):
            logits = compute(session, Part(token_ids=own[-1:], begin=len(own) - 1, blocks=blocks))[0][0].astype(
                np.float64
            )
            weights = np.exp(logits - logits.max())
            own.append(int(generator.choice(len(weights), p=weights / weights.sum())))
        yield own
