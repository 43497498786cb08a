"""Decode steps recorded as CUDA graphs, one for each of a few numbers of rows, and played back with new inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inferd.plugin import LoadError, TokenBatch, TokenLimits
from inferd_torch.capacity import choose_rows
from inferd_torch.decode_inputs import DecodeInputs
from inferd_torch.plan import Plan
from inferd_torch.pool import Pool
from inferd_torch.sampling import choose_likeliest

WARM_UPS = 2  # kernels are compiled and workspaces taken before anything is recorded


@dataclass(frozen=True, slots=True)
class _Recording:
    inputs: DecodeInputs
    graph: torch.cuda.CUDAGraph
    logits: Tensor
    likeliest: Tensor


class CudaGraphs:
    """Recordings by their number of rows. A step plays the smallest one that it fits into.

    All are warmed up and recorded on one stream: cuBLAS keeps a workspace for each stream that it has computed on.
    """

    def __init__(
        self, forward: Callable[[Plan], Tensor], *, limits: TokenLimits, pool: Pool, device: torch.device
    ) -> None:
        width = -(-limits.context_tokens // limits.block_tokens)
        self._recordings: list[_Recording] = []
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch has no types here
        memory: Any = None
        for rows in reversed(choose_rows(min(limits.max_sequences, limits.max_step_tokens))):
            inputs = DecodeInputs(rows=rows, width=width, pool=pool, device=device)
            recording = _record(forward, inputs, stream, memory)
            memory = recording.graph.pool()  # the largest took it; the others fit in
            self._recordings.insert(0, recording)

    def run(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The logits (S, V) of a checked batch of single tokens and the likeliest (S,); valid until the next run."""
        count = len(batch.token_ids)
        recording = next(r for r in self._recordings if r.inputs.rows >= count)
        recording.inputs.fill(batch)
        recording.graph.replay()
        return recording.logits[:count], recording.likeliest[:count]


def _record(forward: Callable[[Plan], Tensor], inputs: DecodeInputs, stream: Any, memory: Any) -> _Recording:
    try:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                choose_likeliest(forward(inputs.plan))
        torch.cuda.current_stream(stream.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do with the device meanwhile, such as looking how much memory is taken, is no error.
        with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
            logits = forward(inputs.plan)
            likeliest = choose_likeliest(logits)
    except Exception as error:  # the edge to the code of an architecture, and to a compiler that raises what it likes
        raise LoadError(
            f"a decode step of {inputs.rows} rows cannot be recorded: {type(error).__name__}: {error}:"
            " set 'cuda_graphs' to false"
        ) from error
    return _Recording(inputs, graph, logits, likeliest)
