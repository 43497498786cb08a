"""The forward pass: a step as runs of the graph, keys and values in place."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inferd.plugin import StepResult, TokenBatch, TokenLimits
from inferd_onnx.decoder.area import Area
from inferd_onnx.decoder.plan import Joins, Run, check_batch, split
from inferd_onnx.decoder.shape import Shape
from inferd_onnx.decoder.slots import Slots
from inferd_onnx.decoder.sources import Weight

MOST_BINDINGS = 64  # that are remembered, by the places that they bind
NONE = np.zeros(0, np.int64)
FATAL = 4


Wanted = tuple[NDArray[Any], NDArray[np.float32]]
"""Rows of a batch, ascending, and where what is computed for them goes."""


class PooledSession(ABC):
    """A graph, its pool of KV blocks and its area.

    Args:
        runtime: The loaded graph.
        shape: Of the network.
        limits: What was derived for it.
        area_tokens: Most tokens whose keys and values are in the area at once.
        past: Names of the inputs with keys and values of each layer.
        present: Names of the outputs with them.
        dtype: Of them.
    """

    def __init__(
        self,
        runtime: Any,
        *,
        shape: Shape,
        limits: TokenLimits,
        area_tokens: int,
        past: Sequence[str],
        present: Sequence[str],
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self._runtime: Any = runtime
        self._past, self._present = past, present
        self._dtype = dtype
        self._shape = shape
        self._limits = limits
        self._area_tokens = area_tokens
        self._joins: Joins = "none"
        tokens = -(-limits.context_tokens // limits.block_tokens) * limits.block_tokens
        sizes = (shape.layers * 2, shape.kv_heads, limits.block_tokens, shape.head_width)
        pool = np.zeros((limits.blocks, *sizes), dtype)
        self._area = Area(
            layers=shape.layers,
            places=limits.max_sequences,
            heads=shape.kv_heads,
            tokens=tokens,
            width=shape.head_width,
            dtype=dtype,
        )
        self._slots = Slots(self._area, pool, limits, area_tokens=area_tokens)
        self._bindings: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._options = ort.RunOptions()
        self._options.log_severity_level = FATAL  # what it would tell is in the exception

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        check_batch(batch, self._limits)
        hidden_rows = NONE if batch.hidden_rows is None else batch.hidden_rows
        logits = np.empty((len(batch.logit_rows), self._limits.vocabulary_size), np.float32)
        states = np.empty((len(hidden_rows), self._shape.width), np.float32)
        for run in self._split(batch, most_tokens=self._area_tokens):
            first = self._slots.enter(run)
            self._compute(run, first, batch, ((batch.logit_rows, logits), (hidden_rows, states)))
            self._slots.leave(run, first)
        return StepResult(logits=logits, hidden=None if batch.hidden_rows is None else states)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        self._slots.copy_blocks(pairs)

    def close(self) -> None:
        """Give the memory back."""
        self._bindings.clear()
        del self._runtime, self._slots, self._area

    def _split(self, batch: TokenBatch, *, most_tokens: int) -> Iterator[Run]:
        """The runs of a checked batch."""
        return split(batch, most_tokens=most_tokens, joins=self._joins, place_tokens=self._area.numbers.shape[3])

    @abstractmethod
    def _compute(self, run: Run, first: int, batch: TokenBatch, wanted: Sequence[Wanted]) -> None:
        """Run the graph, and put what is wanted of it where it belongs: logits, and hidden states."""

    def _bind(self, first: int, count: int) -> Any:
        """A binding with the places of so many sequences, which is used again."""
        key = (first, count)
        if key in self._bindings:
            self._bindings.move_to_end(key)
            return self._bindings[key]
        if len(self._bindings) >= MOST_BINDINGS:
            self._bindings.popitem(last=False)
        binding = self._bindings[key] = self._runtime.io_binding()
        sizes = (count, *self._area.numbers.shape[2:])
        for part, (past, present) in enumerate(zip(self._past, self._present, strict=True)):
            address = self._area.pointer(part, first)
            binding.bind_input(past, "cpu", 0, self._dtype, sizes, address)
            binding.bind_output(present, "cpu", 0, self._dtype, sizes, address)
        return binding


class DecoderSession(PooledSession):
    """Our own graph.

    Args:
        runtime: The loaded graph.
        held: What the runtime reads from our memory: weights that it has made no copies of.
        table: The embedding.
        others: As `PooledSession`.
    """

    def __init__(self, runtime: Any, *, held: Sequence[Any], table: Weight, **others: Any) -> None:
        layers = range(others["shape"].layers)
        names = [f"{what}.{layer}" for layer in layers for what in ("key", "value")]
        super().__init__(runtime, past=[f"past_{name}" for name in names], present=names, **others)
        self._held = held
        self._table = table
        self._counts = any(node.name == "counts" for node in self._runtime.get_inputs())
        self._joins = "any" if self._counts else "first"

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        del self._held, self._table

    def _compute(self, run: Run, first: int, batch: TokenBatch, wanted: Sequence[Wanted]) -> None:
        binding = self._bind(first, len(run.lengths))
        rows = run.rows.reshape(-1)
        hidden = self._table.pick(batch.token_ids[rows]).reshape(*run.rows.shape, -1)
        binding.bind_cpu_input("hidden", np.ascontiguousarray(hidden))
        binding.bind_cpu_input("last", (run.lengths - 1).astype(np.int32))
        binding.bind_cpu_input("total", np.array(run.lengths.max(), np.int32))
        if self._counts:
            binding.bind_cpu_input("counts", run.counts.astype(np.int32))
        outs = []
        for name, output, (all_rows, to) in zip(
            ("logit_rows", "hidden_rows"), ("logits", "states"), wanted, strict=True
        ):
            found, places = find_rows(all_rows, rows)
            binding.bind_cpu_input(name, places)
            out = np.empty((len(places), to.shape[1]), np.float32)
            binding.bind_output(output, "cpu", 0, np.float32, out.shape, out.ctypes.data)
            outs.append((to, found, out))
        self._runtime.run_with_iobinding(binding, self._options)
        for to, found, out in outs:
            to[found] = out


def put_logits(run: Run, logits: NDArray[np.float32], wanted: Sequence[Wanted]) -> None:
    """Put logits of a run's sequences, (S, N, V) or (S, 1, V), where they belong.

    Raises:
        ValueError: Others are wanted than those of the last tokens, and there are none.
    """
    (all_rows, to), _ = wanted
    found, places = find_rows(all_rows, run.rows.reshape(-1))
    rows, columns = np.divmod(places, run.rows.shape[1])
    if logits.shape[1] != run.rows.shape[1]:  # the last row of each sequence alone
        if (columns != run.rows.shape[1] - 1).any():
            raise ValueError("the model's graph gives logits of the last token of each sequence alone")
        columns = columns * 0
    to[found] = logits[rows, columns]


def find_rows(wanted: NDArray[Any], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of ascending wanted rows those that are among these, and where among these they are."""
    order = np.argsort(rows)
    at = np.searchsorted(rows, wanted, sorter=order)
    at[at == len(rows)] = 0
    found = np.flatnonzero(rows[order[at]] == wanted)
    return found, order[at[found]].astype(np.int64)
