"""The loop of the engine: schedule, step, postprocess."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from inferd.core.task import TokenInput
from inferd.engine.batcher import Batcher
from inferd.engine.cause import last_line
from inferd.engine.drafts import Drafter
from inferd.engine.grammar import MaskFiller, why_stuck
from inferd.engine.intake import Intake
from inferd.engine.limits import Bounds
from inferd.engine.output import Ended, PrefillProgress, SampleEnd, StepOutput
from inferd.engine.pace import Pace
from inferd.engine.prefix import PrefixChain
from inferd.engine.sampler import BAD_ROW, NOTHING_LEFT, Sampler
from inferd.engine.samples import Samples, derive
from inferd.engine.submission import Submission
from inferd.errors import BackendFailedError, InferdError, InternalError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.task import Embedding, FinishReason, Sampling, TaskInput
    from inferd.core.task_events import Logprobs
    from inferd.engine.limits import EngineLimits
    from inferd.engine.sampler import Ids
    from inferd.engine.sequence import Sequence
    from inferd.plugin import LoadedModel, TokenBatch
    from inferd.plugin.session import Float32Array

_log = logging.getLogger(__name__)


class Loop:
    """Runs the tasks of one model.

    `run` belongs to the thread that loaded the session and is the only writer of batcher, sampler and sequences. Texts
    become tokens in a thread of their own, one after the other, so that a long prompt delays no step. `submit`,
    `cancel` and `stop` come from any thread and take effect between two steps.

    Args:
        model: The loaded model.
        limits: Bounds of the kernel's configuration.
        deliver: Called once per step with what it produced, from the thread of `run`. May block: then steps wait.

    Attributes:
        bounds: What the model can do under these limits.
        steps: Steps computed so far.

    Raises:
        ModelLoadError: No tokenizer can be built from the model's vocabulary.
        ValueError: The session states impossible limits.
    """

    def __init__(self, model: LoadedModel, limits: EngineLimits, deliver: Callable[[StepOutput], None]) -> None:
        self.bounds = Bounds.of(model.session.limits, limits)
        self.steps = 0
        self._session = model.session
        self._deliver = deliver
        self._sampler = Sampler(rows=self.bounds.rows, vocabulary_size=self.bounds.vocabulary_size)
        self._batcher = Batcher(bounds=self.bounds, sampler=self._sampler)
        self._masks = MaskFiller(rows=self.bounds.rows, vocabulary_size=self.bounds.vocabulary_size)
        self._intake = Intake(model.vocabulary, self.bounds, template_timeout_s=limits.template_timeout_s)
        self._samples = model.session.limits.samples
        self._pace = Pace(gap_s=limits.gap_s)
        self._tasks: dict[int, Samples] = {}  # by handle, waiting or running
        self._owed: set[Sequence] = set()  # those that still have to tell of their prompt
        self._several = 0  # tasks with several samples
        self._refused: list[Ended] = []
        self._stopping = False
        # shared between threads
        self._lock = threading.Lock()
        self._preparing: set[int] = set()  # handles on their way through the intake
        self._submissions: queue.SimpleQueue[Submission | Callable[[Intake], None] | None] = queue.SimpleQueue()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()

    def submit(
        self,
        handle: int,
        task_input: TaskInput,
        sampling: Sampling,
        *,
        salt: bytes = b"",
        prefix_cache: bool = True,
        priority: int = 0,
        embedding: Embedding | None = None,
        adapter: str = "",
    ) -> None:
        """Run a task. Whatever becomes of it, its handle is in `StepOutput.ended` once, unless it is cancelled.

        Args:
            handle: Names it; rises with each task.
            task_input: Its prompt.
            sampling: How tokens are chosen.
            salt: Only tasks with the same salt find each other's KV: the tenant, and whatever else changes the KV.
            prefix_cache: Find and leave KV in the prefix cache.
            priority: Of those that wait the highest comes first, and of those that run the lowest gives way.
            embedding: What its prompt becomes, instead of being gone on with.
            adapter: Name of the LoRA adapter to use; "" for none.
        """
        with self._lock:
            self._preparing.add(handle)
        self._submissions.put(
            Submission(
                handle=handle,
                task_input=task_input,
                sampling=sampling,
                salt=salt,
                prefix_cache=prefix_cache,
                priority=priority,
                embedding=embedding,
                adapter=adapter,
            )
        )

    def cancel(self, handle: int) -> None:
        """Forget a task: its place is free before the next step. A task that has ended is none of ours any more."""
        with self._lock:
            if handle in self._preparing:
                self._preparing.remove(handle)
                return
            self._commands.append(partial(self._drop, handle))
        self._wake.set()

    def consult(self, query: Callable[[Intake], None]) -> None:
        """Have the intake's thread call `query`, in turn with the submissions; no step waits for it."""
        self._submissions.put(query)

    def stop(self) -> None:
        """Let `run` return before its next step; what was submitted is forgotten."""
        with self._lock:
            self._preparing.clear()
        self._commands.append(self._stop)
        self._wake.set()

    def run(self) -> None:
        """Compute steps until `stop`; sleeps while there is nothing to do."""
        intake = threading.Thread(target=self._prepare, name="intake", daemon=True)
        intake.start()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._submissions.put(None)
            intake.join()
            self._masks.close()

    def _turn(self) -> None:
        self._wake.clear()  # before the commands are read: one that comes later wakes again
        while self._commands:
            self._commands.popleft()()
        if self._stopping:
            return
        batch = self._batcher.schedule(prompt_tokens=self._pace.prompt_tokens if self._batcher.decoding else None)
        if batch is not None:
            self._step(batch)
        elif self._refused:
            self._send(StepOutput())
        else:
            self._wake.wait()

    def _step(self, batch: TokenBatch) -> None:
        started = time.perf_counter()
        decode = int(batch.starts[self._batcher.decoding])
        try:
            if self._batcher.copies:
                self._session.copy_blocks(self._batcher.copies)
            ids, logits = self._compute(batch)
        except Exception as error:  # noqa: BLE001 - an edge to a plugin; logged with its traceback
            _log.exception("the backend failed in a step with %d sequences", len(batch.lengths))
            self._fail(self._batcher.running, last_line(error))
            self._send(StepOutput())
            return
        self.steps += 1
        sampled, rows = self._batcher.sampled, self._batcher.sampled_rows
        measured = {} if logits is None else self._sampler.measure(logits, ids, rows=rows)
        told = {  # only sequences without drafts ask for it: one row is each's
            sampled[place if rows is None else rows[place]]: logprobs for place, logprobs in measured.items()
        }
        verified = self._batcher.commit(ids)
        self._pace.measure(time.perf_counter() - started, decode=decode, prompt=len(batch.token_ids) - decode)
        if verified is None:
            self._send(self._collect(sampled, ids.tolist(), told))
        else:
            self._send(self._collect(sampled, [tokens[0] for tokens in verified], told, verified))

    def _compute(self, batch: TokenBatch) -> tuple[Ids, Float32Array | None]:
        """The tokens of the sequences that are sampled, and the logits that they were chosen from if they came here.

        Raises:
            Exception: The session raised, or its result is not what was asked for.
        """
        rows, positions = self._batcher.sampled_rows, self._batcher.sampled_positions
        wanted = any(sequence.constraint is not None for sequence in self._batcher.sampled) or self._batcher.scored
        if self._samples and len(positions) and not wanted:
            sampling = self._sampler.for_device(positions, rows=rows)
            if sampling is not None:
                return self._compute_tokens(replace(batch, sampling=sampling)), None
        self._masks.begin([sequence.constraint for sequence in self._batcher.sampled])
        result = self._session.step(batch)
        if result.logits is None:
            raise ValueError("the session gave no logits")
        logits = self._take_scores(batch, result.logits)
        self._take_hidden(result.hidden)
        masks = self._masks.finish()
        if rows is not None and masks is not None:
            masks = masks[rows]
        return self._sampler.choose(logits, positions, rows=rows, masks=masks), logits

    def _compute_tokens(self, batch: TokenBatch) -> Ids:
        """The tokens that the session chose itself."""
        result = self._session.step(batch)
        self._take_hidden(result.hidden)
        count, size = len(batch.logit_rows), self.bounds.vocabulary_size
        ids = result.token_ids
        if ids is None or ids.shape != (count,) or ids.min() < BAD_ROW or ids.max() >= size:
            raise ValueError(f"the session sampled {ids}, not {count} tokens of a vocabulary of {size}")
        return ids.astype(np.intp)

    def _take_scores(self, batch: TokenBatch, logits: Float32Array) -> Float32Array:
        """Give the logits of prompts to those that score them; the logits of the sequences that are sampled."""
        if not self._batcher.scored:
            return logits
        for each in self._batcher.scored:
            first = int(np.searchsorted(batch.logit_rows, each.place))
            each.scores.add(logits[first : first + each.count], each.begin)
        return logits[np.searchsorted(batch.logit_rows, self._batcher.sampled_places)]

    def _take_hidden(self, hidden: Float32Array | None) -> None:
        """Give the hidden states of prompts to those that make embeddings."""
        if not self._batcher.pooled:
            return
        shape = (sum(each.count for each in self._batcher.pooled), self.bounds.embedding_size)
        if hidden is None or hidden.shape != shape:
            raise ValueError(f"the hidden states have shape {None if hidden is None else hidden.shape}, not {shape}")
        begin = 0
        for each in self._batcher.pooled:
            each.pool.add(hidden[begin : begin + each.count])
            begin += each.count

    def _collect(
        self,
        sequences: list[Sequence],
        ids: list[int],
        told: Mapping[Sequence, Logprobs],
        verified: list[list[int]] | None = None,
    ) -> StepOutput:
        """Give each sequence its new token, or all those of `verified`, and gather what comes of it."""
        embeddings = {}
        if self._batcher.pooled or min(ids, default=0) < 0:
            self._fail_bad(sequences, ids)
            embeddings = self._finish_embeddings(sequences)
            living = [sequence.handle in self._tasks for sequence in sequences]
            sequences, ids = list(compress(sequences, living)), list(compress(ids, living))
            verified = None if verified is None else list(compress(verified, living))
        output = StepOutput(handles=[sequence.handle for sequence in sequences], embeddings=embeddings)
        if verified is None:
            output.counts, output.token_ids = [1] * len(ids), ids
            output.texts = [sequence.accept(number) for sequence, number in zip(sequences, ids, strict=True)]
        else:
            for sequence, tokens in zip(sequences, verified, strict=True):
                count, text = sequence.accept_all(tokens)
                output.counts.append(count)
                output.token_ids += tokens[:count]
                output.texts.append(text)
        if told:
            output.logprobs = {place: told[s] for place, s in enumerate(sequences) if s in told}
        if self._owed:
            output.prompts = {s.handle: s.tell_prompt() for s in sequences if s in self._owed}
            self._owed.difference_update(sequences)
        if self._several:
            output.samples = [sequence.sample for sequence in sequences]
        for sequence in sequences:
            if sequence.finish is not None:
                self._end(sequence, sequence.finish, output)
        output.prefills += [PrefillProgress(s.handle, fraction) for s, fraction in self._batcher.reading]
        return output

    def _fail_bad(self, sequences: list[Sequence], ids: list[int]) -> None:
        """End the tasks of sequences that got no token."""
        for sequence, number in zip(sequences, ids, strict=True):
            if number == BAD_ROW:
                self._fail([sequence], "the logits are not finite numbers")
            elif number == NOTHING_LEFT:
                self._fail_task(sequence.handle, why_stuck(sequence))

    def _finish_embeddings(self, sequences: list[Sequence]) -> dict[int, tuple[float, ...]]:
        """End the tasks whose prompt was computed and that want an embedding; what they get, by handle."""
        vectors = {}
        for sequence in sequences:
            if sequence.pool is not None and sequence.handle in self._tasks:
                try:
                    vectors[sequence.handle] = sequence.pool.vector()
                except ValueError as error:
                    self._fail([sequence], str(error))
                else:
                    self._forget(self._tasks[sequence.handle])
                    self._refused.append(Ended(handle=sequence.handle, usage=sequence.usage))
        return vectors

    def _end(self, sequence: Sequence, reason: FinishReason, output: StepOutput) -> None:
        """A sample has its last token; the last one of a task ends the task."""
        task = self._tasks[sequence.handle]
        self._batcher.remove(sequence)
        task.living.remove(sequence)
        if task.several:
            output.sample_ends.append(SampleEnd(sequence.handle, sequence.sample, reason))
        if not task.living:
            self._forget(task)
            output.ended.append(Ended(handle=sequence.handle, reason=task.reason or reason, usage=task.usage))

    def _send(self, output: StepOutput) -> None:
        output.ended += self._refused
        self._refused = []
        self._deliver(output)

    def _fail(self, sequences: list[Sequence], cause: str) -> None:
        """End the tasks of some sequences."""
        for handle in dict.fromkeys(sequence.handle for sequence in sequences):
            error = BackendFailedError(f"the backend failed in a step: {cause}", metadata={"cause": cause})
            self._fail_task(handle, error)

    def _fail_task(self, handle: int, error: InferdError) -> None:
        """End a task that may have ended already, with another of its samples."""
        if handle in self._tasks:
            task = self._tasks[handle]
            self._forget(task, failed=True)
            self._refused.append(Ended(handle=handle, error=error, usage=task.usage))

    def _forget(self, task: Samples, *, failed: bool = False) -> None:
        del self._tasks[task.leader.handle]
        self._owed.discard(task.leader)
        self._several -= task.several
        for sequence in task.living:
            self._batcher.remove(sequence, failed=failed)

    def _admit(self, task: Samples) -> None:
        self._tasks[task.leader.handle] = task
        if task.leader.tells_prompt:
            self._owed.add(task.leader)
        self._several += task.several
        self._batcher.add(task.leader)

    def _refuse(self, handle: int, error: InferdError) -> None:
        self._refused.append(Ended(handle=handle, error=error))

    def _drop(self, handle: int) -> None:
        if handle in self._tasks:
            self._forget(self._tasks[handle])

    def _stop(self) -> None:
        self._stopping = True

    def _prepare(self) -> None:
        """The intake's thread: inputs to sequences, in the order of their submission."""
        while (submission := self._submissions.get()) is not None:
            if not isinstance(submission, Submission):
                submission(self._intake)
                continue
            handle = submission.handle
            if handle not in self._preparing:
                continue
            command = self._prepared(submission)
            with self._lock:
                if handle not in self._preparing:  # cancelled meanwhile
                    continue
                self._preparing.remove(handle)
                self._commands.append(command)
            self._wake.set()

    def _prepared(self, submission: Submission) -> Callable[[], None]:
        """What the step's thread is to do with a submission."""
        handle = submission.handle
        try:
            return partial(self._admit, self._accept(submission))
        except InferdError as error:
            return partial(self._refuse, handle, error)
        except Exception as error:  # noqa: BLE001 - an edge to foreign code: tokenizer and template
            _log.exception("the input of a task could not be prepared")
            return partial(self._refuse, handle, InternalError(f"the input cannot be prepared: {last_line(error)}"))

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
            prompt = TokenInput(tuple(sequences[0].prompt.tolist()))
            sequences += [self._intake.accept(handle, prompt, derive(sampling, n)) for n in range(1, sampling.n)]
        # A task that does not share has a salt that no other has: so its samples, and it itself when it is preempted,
        # still find what it computed.
        salt = b"shared" + submission.salt if submission.prefix_cache else b"own" + handle.to_bytes(8, "little")
        for sample, sequence in enumerate(sequences):
            sequence.rank = (-submission.priority, handle, sample)
            sequence.drafter = self._drafter(sequence)
            sequence.chain = PrefixChain(
                salt=salt, block_tokens=self.bounds.block_tokens, lasting=submission.prefix_cache
            )
        return Samples(sequences)

    def _drafter(self, sequence: Sequence) -> Drafter | None:
        """Guesses for a sequence whose tokens depend on logits and position alone: then one step can verify them."""
        bound_by_history = sequence.rules is not None and sequence.rules.reads_history
        if not self.bounds.draft_tokens or bound_by_history or sequence.constraint is not None:
            return None
        return Drafter(most=self.bounds.draft_tokens) if sequence.sampling.logprobs is None else None
