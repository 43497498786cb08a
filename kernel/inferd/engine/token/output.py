"""What one step of the engine produced: columns, not objects, so that it leaves the worker as one frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.task import FinishReason, Usage

if TYPE_CHECKING:
    from inferd.core.task_events import Logprobs, PromptOutput
    from inferd.engine.token.sequence import Sequence
    from inferd.errors import InferdError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A task that ended: by generating (`reason`) or by an error."""

    handle: int
    reason: FinishReason = FinishReason.UNSPECIFIED
    error: InferdError | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How far the prompt of a task has been read, 0 to 1."""

    handle: int
    fraction: float


@dataclass(frozen=True, slots=True)
class SampleEnd:
    """A sample that ended, of a task that has several."""

    handle: int
    sample: int
    reason: FinishReason


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """What one step produced, for all its tasks.

    Attributes:
        handles: Each task with new tokens.
        counts: How many of `token_ids` are each task's, in the order of `handles`.
        token_ids: The new tokens of all tasks, one after the other.
        texts: The text that each task's new tokens complete, in the order of `handles`.
        ended: Tasks that ended with this step; their last tokens are above.
        prefills: Tasks whose prompt is being read.
        samples: The sample of each place in `handles`; empty when all are 0.
        sample_ends: Samples that ended with this step, of tasks that have several.
        logprobs: How likely the new tokens of a place in `handles` were; of tasks that ask for it.
        embeddings: The embedding of each task that asked for one, by handle.
        begun_prompts: Tasks whose prompt was begun, with the tokens of it that the prefix cache had.
        alone: The task that runs alone in its batch from now on; None for none.
        prompts: What tasks asked to be told of their prompt, by handle; before their first tokens.
        seconds: How long it computed; 0 where nothing was computed.
        batch_size: How many sequences it computed.
        kv_tokens: Tokens of the KV pool that tasks hold behind it, in whole blocks; None where it computed nothing.
        preempted: How often a sequence lost its KV blocks to others since the step before.
        pictured: How many pictures it computed, and how many it found kept.
    """

    handles: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    prefills: list[PrefillProgress] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    sample_ends: list[SampleEnd] = field(default_factory=list)
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    prompts: dict[int, PromptOutput] = field(default_factory=dict)
    embeddings: dict[int, tuple[float, ...]] = field(default_factory=dict)
    begun_prompts: dict[int, int] = field(default_factory=dict)
    alone: int | None = None
    seconds: float = 0.0
    batch_size: int = 0
    kv_tokens: int | None = None
    preempted: int = 0
    pictured: tuple[int, int] = (0, 0)

    def take(self, sequences: list[Sequence], ids: list[int], verified: list[list[int]] | None) -> None:
        """Give each sequence its new token, or as many of `verified` as it takes, and keep what comes of it."""
        if verified is None:
            self.counts, self.token_ids = [1] * len(ids), ids
            self.texts = [sequence.accept(number) for sequence, number in zip(sequences, ids, strict=True)]
            return
        for sequence, tokens in zip(sequences, verified, strict=True):
            count, text = sequence.accept_all(tokens)
            self.counts.append(count)
            self.token_ids += tokens[:count]
            self.texts.append(text)
