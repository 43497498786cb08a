"""Decode steps recorded as CUDA graphs, one for each of a few numbers of rows, and played back with new inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inferd.plugin import LoadError, TokenBatch, TokenLimits
from inferd_torch.capacity import choose_rows
from inferd_torch.decode_inputs import DecodeInputs
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan
from inferd_torch.pool import Pool
from inferd_torch.sampling import Draw

WARM_UPS = 2  # kernels are compiled and workspaces taken before anything is recorded
Forward = Callable[[Plan], Tensor]


def compute_recorded(forward: Forward, draw: Draw, inputs: DecodeInputs, rows: int, tokens: LastTokens) -> Tensor:
    """What a recording holds: the logits (rows, V) of what the inputs were filled with; their tokens go to `tokens`."""
    inputs.settle()
    logits = forward(inputs.plan(rows))
    draw(logits, inputs.table(rows), tokens.cells[:rows])
    return logits


@dataclass(frozen=True, slots=True)
class _Recording:
    rows: int
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
        for rows in reversed(choose_rows(most)):

            def compute(rows: int = rows) -> Tensor:
                return compute_recorded(forward, draw, self._inputs, rows, tokens)

            recording = _record(compute, rows, stream, memory)
            memory = recording.graph.pool()  # the largest took it; the others fit in
            self._recordings.insert(0, recording)

    def run(self, batch: TokenBatch) -> Tensor:
        """The logits (S, V) of a checked batch of single tokens, valid until the next run; its tokens are chosen."""
        count = len(batch.token_ids)
        recording = next(r for r in self._recordings if r.rows >= count)
        self._inputs.fill(batch)
        try:
            recording.graph.replay()
        except BaseException:
            self._inputs.doubt()
            raise
        return recording.logits[:count]


def _record(compute: Callable[[], Tensor], rows: int, stream: Any, memory: Any) -> _Recording:
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
            f"a decode step of {rows} rows cannot be recorded: {type(error).__name__}: {error}:"
            " set 'cuda_graphs' to false"
        ) from error
    return _Recording(rows, graph, logits)
