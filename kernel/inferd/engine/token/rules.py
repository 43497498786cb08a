"""What changes the logits of a sequence before its next token is chosen."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.text.bad_words import completions
from inferd.engine.token.dry import Repeats
from inferd.engine.token.penalties import Penalties, penalize
from inferd.engine.token.times import Timing
from inferd.sampling import AT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from inferd.engine.token.dry import Dry
    from inferd.engine.token.script import Script
    from inferd.plugin.session import Float32Array, Int32Array
    from inferd.sampling import Sampling

    Masks = NDArray[np.uint32]
    CheckIds = Callable[[Sequence[int], str], None]

ALL: Final = np.uint32(0xFFFFFFFF)
"""A word of a mask that allows 32 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a task asks for, in terms of tokens; the same for all its samples.

    Attributes:
        sampling: What it asks for.
        bias_ids: Tokens whose logits get something added.
        biases: What they get.
        phrases: Sequences of tokens that are forbidden at their last one.
        ends: Tokens that end it; forbidden until `sampling.min_tokens` were produced.
        script: What it must write and must not, by the place; None for anything.
        dry: How stretches that repeat themselves are made less likely; None where they are not.
    """

    sampling: Sampling
    bias_ids: Int32Array
    biases: Float32Array
    phrases: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    script: Script | None = None
    dry: Dry | None = None
    _prompts: list[tuple[Int32Array, Repeats]] = field(default_factory=list, init=False, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        sampling: Sampling,
        *,
        phrases: Sequence[tuple[int, ...]] = (),
        ends: Collection[int] = (),
        check_ids: CheckIds = lambda _ids, _field: None,
        script: Script | None = None,
        dry: Dry | None = None,
    ) -> Rules | None:
        """The rules of a task; None where nothing changes its logits. `check_ids` refuses what are no tokens."""
        biased = [token_id for token_id, _ in sampling.logit_bias]
        check_ids(biased, f"{AT}logit_bias")
        needed = _penalizes(sampling) or sampling.logit_bias or phrases or (sampling.min_tokens and ends)
        if not needed and script is None and dry is None:
            return None
        return cls(
            sampling=sampling,
            bias_ids=np.array(biased, np.int32),
            biases=np.array([bias for _, bias in sampling.logit_bias], np.float32),
            phrases=tuple(phrases),
            ends=tuple(sorted(ends)) if sampling.min_tokens else (),
            script=script,
            dry=dry,
        )

    def find_repeats(self, tokens: Int32Array, *, prompt_tokens: int) -> Repeats | None:
        """The repeats of these tokens; those of the prompt are found once for all samples. One caller: the sampler."""
        if self.dry is None:
            return None
        if len(tokens) > prompt_tokens:
            return Repeats(self.dry, tokens)
        if not self._prompts or not np.array_equal(self._prompts[0][0], tokens):
            self._prompts[:] = [(tokens, Repeats(self.dry, tokens))]
        repeats = copy(self._prompts[0][1])
        repeats.part()
        return repeats

    @property
    def reads_history(self) -> bool:
        """Whether what they forbid or change depends on the tokens before."""
        timed = self.script is not None and self.script.times is not None
        return _penalizes(self.sampling) or self.dry is not None or timed or any(len(one) > 1 for one in self.phrases)


def _penalizes(s: Sampling) -> bool:
    return s.repetition_penalty != 1 or s.frequency_penalty != 0 or s.presence_penalty != 0


class RuledRow:
    """The rules of one sequence and what they need of its history. One writer: the sampler.

    Args:
        rules: Those of its task.
        tokens: Tokens of prompt and output so far, shape (T,).
        prompt_tokens: How many of them are the prompt's.
    """

    __slots__ = ("_first_end", "_opening", "_prompt_tokens", "_tail", "_timing", "penalties", "repeats", "rules")

    def __init__(self, rules: Rules, *, tokens: Int32Array, prompt_tokens: int) -> None:
        self.rules = rules
        self.penalties: Penalties | None = None
        s = rules.sampling
        self._prompt_tokens = prompt_tokens
        self._first_end = prompt_tokens + s.min_tokens  # where a token may end it, at the earliest
        longest = max((len(phrase) for phrase in rules.phrases), default=1)
        self._tail = deque(tokens[max(0, len(tokens) - longest + 1) :].tolist(), maxlen=longest - 1)
        self.repeats = rules.find_repeats(tokens, prompt_tokens=prompt_tokens)
        self._timing: Timing | None = None
        if rules.script is not None and rules.script.times is not None:
            opening = prompt_tokens + len(rules.script.opening)
            self._opening = max(0, opening - len(tokens))  # tokens that come before what times are about
            self._timing = Timing(rules.script.times, tokens[opening:].tolist())
        if _penalizes(s):
            first = max(0, len(tokens) - s.penalty_window) if s.penalty_window else 0
            self.penalties = Penalties(
                repetition=s.repetition_penalty,
                frequency=s.frequency_penalty,
                presence=s.presence_penalty,
                prompt=tokens[first:prompt_tokens],
                output=tokens[max(first, prompt_tokens) :],
                window=s.penalty_window,
            )

    def add(self, token_id: int) -> None:
        """The output has a new token."""
        self._tail.append(token_id)
        if self.penalties is not None:
            self.penalties.add(token_id)
        if self.repeats is not None:
            self.repeats.add(token_id)
        if self._timing is not None:
            if self._opening:
                self._opening -= 1
            else:
                self._timing.add(token_id)

    def forbidden(self, position: int) -> list[int]:
        """Tokens that must not be at `position`, the next one."""
        found = list(completions(self.rules.phrases, list(self._tail)))
        if position < self._first_end:
            found += self.rules.ends
        return found

    def follow_script(self, logits: Float32Array, position: int) -> None:
        """Forbid what the script does not have at `position`, in the logits of this row."""
        if self.rules.script is not None:
            self.rules.script.apply(logits, position - self._prompt_tokens)
        if self._timing is not None and not self._opening:
            self._timing.apply(logits)


def change(logits: Float32Array, rows: Sequence[RuledRow | None], positions: Int32Array, masks: Masks | None) -> None:
    """Change logits by the rules of each row: bias, penalties, DRY, then what is forbidden becomes minus infinity.

    Args:
        logits: Shape (R, V); changed.
        rows: The rules of each row; None for none.
        positions: Of the new tokens, shape (R,).
        masks: Bits of the tokens that are allowed, lowest id first, shape (R, ceil(V / 32)); None for all.
    """
    ruled = [(place, row) for place, row in enumerate(rows) if row is not None]
    for place, row in ruled:
        logits[place, row.rules.bias_ids] += row.rules.biases
    penalize(logits, [None if row is None else row.penalties for row in rows])
    for place, row in ruled:
        if row.repeats is not None:
            row.repeats.apply(logits[place])
        logits[place, row.forbidden(int(positions[place]))] = -np.inf
        row.follow_script(logits[place], int(positions[place]))
    if masks is not None:
        bytes_of_masks = np.ascontiguousarray(masks).view(np.uint8)
        allowed = np.unpackbits(bytes_of_masks, axis=1, count=logits.shape[1], bitorder="little")
        logits[allowed == 0] = -np.inf
