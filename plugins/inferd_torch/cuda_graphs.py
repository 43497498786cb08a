"""Steps recorded as CUDA graphs, for a few numbers of rows that decode and of tokens, and played with new inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from inferd.plugin import LoadError, TokenBatch, TokenLimits
from inferd_torch.capacity import choose_rows, choose_tokens
from inferd_torch.decode_inputs import DecodeInputs
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan
from inferd_torch.pool import Pool
from inferd_torch.sampling import Draw
from inferd_torch.step_inputs import StepInputs

WARM_UPS = 2  # kernels are compiled and workspaces taken before anything is recorded


class Forward(Protocol):
    """The logits of all rows of a plan, or of some."""

    def __call__(self, plan: Plan, logit_rows: Tensor | int = 0) -> Tensor: ...  # noqa: D102 - said above


def compute_recorded(forward: Forward, draw: Draw, inputs: DecodeInputs, rows: int, tokens: LastTokens) -> Tensor:
    """What a recording holds: the logits (rows, V) of what the inputs were filled with; their tokens go to `tokens`."""
    inputs.settle()
    logits = forward(inputs.plan(rows))
    draw(logits, inputs.table(rows), tokens.cells[:rows])
    return logits


def compute_filled(forward: Forward, draw: Draw, inputs: StepInputs, tokens: LastTokens) -> Tensor:
    """The same of a step with prompts: the logits (R, V) of the rows that are wanted."""
    logits = forward(inputs.plan(), inputs.wanted)
    draw(logits, inputs.table, tokens.cells[: inputs.rows])
    return logits


@dataclass(frozen=True, slots=True)
class _Recording:
    size: int
    graph: torch.cuda.CUDAGraph
    logits: Tensor


class CudaGraphs:
    """Recordings by their number of rows. A step plays the smallest one that it fits into.

    All are warmed up and recorded on one stream: cuBLAS keeps a workspace for each stream that it has computed on.

    Args:
        forward: The logits of a plan.
        draw: Chooses tokens.
        tokens: Where they go, and what a step finds there that was not read.
        limits: Of the session.
        pool: Its KV blocks.
        device: Where it is.
    """

    def __init__(
        self, forward: Forward, draw: Draw, tokens: LastTokens, *, limits: TokenLimits, pool: Pool, device: torch.device
    ) -> None:
        width = -(-limits.context_tokens // limits.block_tokens)
        most = min(limits.max_sequences, limits.max_step_tokens)
        self._inputs = DecodeInputs(rows=most, width=width, pool=pool, tokens=tokens)
        self._recordings: list[_Recording] = []
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch has no types here
        memory: Any = None
        self._filled: list[tuple[StepInputs, _Recording]] = []
        for count in reversed(choose_tokens(limits.max_step_tokens)):
            inputs = StepInputs(tokens=count, limits=limits, pool=pool, last=tokens)

            def fill(inputs: StepInputs = inputs) -> Tensor:
                return compute_filled(forward, draw, inputs, tokens)

            filled = _record(fill, f"of {count} tokens", count, stream, memory)
            memory = filled.graph.pool()  # the largest took it; the others fit in
            self._filled.insert(0, (inputs, filled))
        for rows in reversed(choose_rows(most)):

            def compute(rows: int = rows) -> Tensor:
                return compute_recorded(forward, draw, self._inputs, rows, tokens)

            recording = _record(compute, f"of {rows} rows that decode", rows, stream, memory)
            memory = recording.graph.pool()
            self._recordings.insert(0, recording)

    def run(self, batch: TokenBatch) -> Tensor:
        """The logits (S, V) of a checked batch of single tokens, valid until the next run; its tokens are chosen."""
        count = len(batch.token_ids)
        recording = next(r for r in self._recordings if r.size >= count)
        self._inputs.fill(batch)
        try:
            recording.graph.replay()
        except BaseException:
            self._inputs.doubt()
            raise
        return recording.logits[:count]

    def run_filled(self, batch: TokenBatch) -> Tensor | None:
        """The same of a checked batch of any tokens; None where none is recorded that it fits into."""
        for inputs, recording in self._filled:
            if inputs.fits(batch):
                inputs.fill(batch)
                recording.graph.replay()
                return recording.logits[: len(batch.logit_rows)]
        return None


def _record(compute: Callable[[], Tensor], what: str, size: int, stream: Any, memory: Any) -> _Recording:
    try:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream(stream.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do with the device meanwhile, such as looking how much memory is taken, is no error.
        with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
            logits = compute()
    except Exception as error:  # the edge to the code of an architecture, and to a compiler that raises what it likes
        raise LoadError(
            f"a step {what} cannot be recorded: {type(error).__name__}: {error}: set 'cuda_graphs' to false"
        ) from error
    return _Recording(size, graph, logits)
