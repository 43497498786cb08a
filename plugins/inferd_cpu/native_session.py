"""A session of the native library: one call for each step, in which all of it happens without the GIL."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_ubyte
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import DeviceSampling, KvLayout, LoadError, ReadAdapter, StepResult, TokenBatch, TokenLimits
from inferd_cpu.capacity import KvBytes
from inferd_cpu.expert_pages import ExpertPages
from inferd_cpu.native import ACTIVATIONS, GATINGS, HEAD_NORMS, KV_FORMATS, MAX_ROPES, LayerKind, Native, Shape, Step
from inferd_cpu.native_adapters import NativeAdapters, Packed
from inferd_cpu.plan import check_batch, check_beyond, check_pairs
from inferd_cpu.shapes import Architecture, Routing
from inferd_cpu.vision.tower import Tower, Watch

_INTEGERS = ("token_ids", "positions", "starts", "lengths", "block_tables", "logit_rows")
_SCALARS = (
    *("epsilon", "attention_scale", "attention_cap", "clamp", "temperature_scale", "temperature_tokens", "parallel"),
    *("embedding_scale", "residual_scale", "logit_scale", "logit_cap"),
)
UNUSED_WIDTH = 32  # of feed-forward parts in a network that has experts in all layers
_PADDING = 16  # floats between rows of logits: rows a multiple of a page apart would share their cache lines
SIZES = frozenset(
    {
        *("context_tokens", "kv_tokens", "max_sequences", "max_step_tokens", "threads", "pre_tokenizer"),
        *("picture_tokens", "picture_cache_tokens"),
        "expert_offload",
    }
)
"""Settings that change no byte of a KV block; `picture_tokens` does where pictures are made as small as it says."""
_MULTIPLIES_BYTES = ("avx512", "amx", "avx2")  # with one instruction, or with few for several rows at once
_SAMPLING = {
    "temperatures": np.float32,
    "top_k": np.int64,
    "top_p": np.float64,
    "min_p": np.float64,
    "points": np.float64,
}


def make_shape(
    native: Native,
    a: Architecture,
    limits: TokenLimits,
    settings: Mapping[str, Any],
    *,
    threads: int,
    feed_biased: bool,
) -> Shape:
    """The sizes of a session, for the library. `feed_biased`: gates and ups have biases."""
    layer, family = a.layers[0], a.family
    magnitudes = [rope.magnitude for rope in a.ropes]
    return Shape(
        kinds=(LayerKind * len(a.layers))(*(LayerKind(layer.window, layer.rope, layer.routed) for layer in a.layers)),
        layers=len(a.layers),
        width=a.width,
        **{name: getattr(layer, name) for name in ("heads", "kv_heads", "key_width", "value_width")},
        feed_width=max([some.feed_width for some in a.layers if not some.routed], default=UNUSED_WIDTH),
        **(describe_routing(a.routing) if a.routing else {}),
        rope_width=a.ropes[0].width,
        **{name: getattr(a, name) for name in _SCALARS},
        ropes=len(a.ropes),
        layer_norm=family.norm == "layer",
        head_norms=HEAD_NORMS.index(family.head_norms),
        head_norms_after=family.head_norms_after,
        activation=ACTIVATIONS.index(a.activation),
        gated=family.gated,
        feed_biased=feed_biased,
        magnitudes=(c_float * MAX_ROPES)(*magnitudes),
        **{name: getattr(limits, name) for name in ("vocabulary_size", "context_tokens", "block_tokens", "blocks")},
        max_sequences=limits.max_sequences,
        max_step_tokens=limits.max_step_tokens,
        window_blocks=limits.window_blocks,
        kv_format=KV_FORMATS[choose_kv_format(native, settings)],
        threads=threads,
    )


def describe_routing(routing: Routing) -> dict[str, float]:
    """The fields of a shape that are about experts."""
    return {
        "experts": routing.count,
        "experts_used": routing.used,
        "expert_width": routing.feed_width,
        "shared_width": routing.shared_width,
        "gating": GATINGS.index(routing.gating),
        "normalised": routing.normalised,
        "groups": routing.groups,
        "groups_used": routing.groups_used,
        "router_scale": routing.scale,
    }


def choose_kv_format(native: Native, settings: Mapping[str, Any]) -> str:
    """The format of keys and values: a name of `KV_FORMATS`."""
    wanted: str = settings["kv_format"]
    return ("i8" if native.isa in _MULTIPLIES_BYTES else "bf16") if wanted == "auto" else wanted


def measure_workspace(native: Native, shape: Shape) -> int:
    """Bytes that a session takes beside weights and KV pool."""
    logits_bytes: int = 4 * shape.max_sequences * (shape.vocabulary_size + _PADDING)
    workspace_bytes: int = native.library.inferd_workspace_bytes(ctypes.byref(shape), native.kernels)
    return logits_bytes + workspace_bytes


def measure_token(native: Native, a: Architecture, settings: Mapping[str, Any]) -> KvBytes:
    """What the keys and values of one token take, rounded up: a block is padded to tiles of tokens."""
    block_tokens: int = settings["block_tokens"]
    sizes = ("heads", "kv_heads", "key_width", "value_width")
    layer = {name: getattr(a.layers[0], name) for name in sizes}
    windows = sum(layer.window > 0 for layer in a.layers)

    def measure(layers: int) -> int:
        block = Shape(layers=layers, **layer, blocks=1, block_tokens=block_tokens)
        block.kv_format = KV_FORMATS[choose_kv_format(native, settings)]
        block_bytes: int = native.library.inferd_pool_bytes(ctypes.byref(block))
        return -(-block_bytes // block_tokens)

    return KvBytes(measure(len(a.layers) - windows), measure(windows))


class NativeSession:
    """A loaded model, its pool of KV blocks and its threads.

    Args:
        native: The library.
        shape: Sizes.
        limits: What was derived for it.
        formats: Of the matrices, as `NativeWeights.formats` gives them.
        vector_floats: Numbers of all vectors.
        adapters: Reads adapters for it.
        tower: What sees pictures.
        axes: By which position of a token in pictures each pair goes; see `Rope.axes`.
        pages: Where packed experts are; None for memory like that of other weights.

    Attributes:
        model: The library's handle.

    Raises:
        LoadError: The memory cannot be had.
    """

    def __init__(
        self,
        native: Native,
        shape: Shape,
        limits: TokenLimits,
        *,
        formats: NDArray[np.int32],
        vector_floats: int,
        adapters: NativeAdapters,
        tower: Tower | None = None,
        axes: NDArray[np.int32] | None = None,
        pages: ExpertPages | None = None,
    ) -> None:
        self._tower = tower
        self._axes = np.zeros(0, np.int32) if axes is None else axes
        self._pages = pages
        self._library = native.library
        self._limits = limits
        self._adapters = adapters
        self._packed: dict[int, Packed] = {}  # by slot: what the library reads
        self.model: int | None = self._library.inferd_open(
            ctypes.byref(shape), native.kernels, formats.ctypes.data, vector_floats, pages.descriptor if pages else -1
        )
        if self.model is None:
            raise LoadError("the operating system gives no memory for weights, KV pool and workspace")
        form = next(name for name, number in KV_FORMATS.items() if number == shape.kv_format)
        self._kv_layout = KvLayout(
            form=f"{native.isa} {form}",
            block_bytes=self._library.inferd_block_bytes(ctypes.byref(shape), 0),
            window_block_bytes=self._library.inferd_block_bytes(ctypes.byref(shape), 1),
            sizes=SIZES - {"picture_tokens"} if tower is not None and tower.sized_by_tokens else SIZES,
        )
        self._step = Step()
        self._logits = _make_logits(limits.max_sequences, limits)

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        return self._limits

    def fill_pool(self) -> None:
        """Have the operating system give the KV pool its pages, in the background; else steps would wait for them."""
        self._library.inferd_fill_pool(self.model)

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step.

        Raises:
            ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits. Nothing has changed.
        """
        step, count, sampling = self._step, len(batch.logit_rows), batch.sampling
        watch = Watch(self._tower, batch)
        held = self._fill(batch)  # keeps the arrays that the step points to
        held += self._place(watch, len(batch.token_ids))
        step.logits = step.chosen = None
        logits = chosen = hidden = None
        if sampling is None or sampling.temperatures.any():
            # More rows than sequences are for tests and scoring; they pay for their own array.
            fits = count <= len(self._logits)
            logits = self._logits[:count] if fits else _make_logits(count, self._limits)
            step.logits, step.logits_stride = logits.ctypes.data, logits.strides[0] // logits.itemsize
        if sampling is not None:
            chosen = np.empty(count, np.int32)
            step.chosen = chosen.ctypes.data
        if batch.hidden_rows is not None:
            hidden = np.empty((len(batch.hidden_rows), self._limits.embedding_size), np.float32)
            step.hidden = hidden.ctypes.data
        if self._library.inferd_step(self.model, step):
            check_batch(batch, self._limits)
            raise ValueError("bad batch: it is not what TokenBatch promises")
        return watch.tell(StepResult(logits=None if sampling else logits, hidden=hidden, token_ids=chosen))

    def read_adapter(self, path: Path) -> ReadAdapter:
        """Read an adapter, beside the steps.

        Raises:
            LoadError: It cannot be read, is for another model, or changes what is no product of a layer.
        """
        return self._adapters.read(path)

    def add_adapter(self, slot: int, adapter: ReadAdapter) -> None:
        """Have sequences of this slot computed with it from the next step on.

        Raises:
            MemoryError: The operating system gives none.
        """
        packed: Packed = adapter.content
        if self._library.inferd_set_adapter(self.model, slot, packed.table):
            raise MemoryError("the operating system gives no memory for steps with adapters")
        self._packed[slot] = packed

    def remove_adapter(self, slot: int) -> None:
        """No sequence has it any more."""
        self._library.inferd_set_adapter(self.model, slot, None)
        del self._packed[slot]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        check_pairs(pairs, self._limits)
        flat = np.array(pairs, np.int32)
        self._library.inferd_copy_blocks(self.model, flat.ctypes.data, len(pairs))

    @property
    def kv_layout(self) -> KvLayout:
        """What a block is outside of the session."""
        return self._kv_layout

    def export_block(self, block: int) -> memoryview:
        """The bytes of a block, where they are.

        Raises:
            ValueError: It is outside the pool.
        """
        address, size_bytes = self._find_block(block)
        return memoryview((c_ubyte * size_bytes).from_address(address)).cast("B")

    def import_block(self, block: int, data: bytes) -> None:
        """Have a block hold the bytes of another.

        Raises:
            ValueError: It is outside the pool, or there are not as many bytes as it has. Nothing has changed.
        """
        address, size_bytes = self._find_block(block)
        if len(data) != size_bytes:
            raise ValueError(f"block {block} has {size_bytes} bytes, and {len(data)} were given")
        ctypes.memmove(address, data, size_bytes)

    def _find_block(self, block: int) -> tuple[int, int]:
        """Where a block begins, and how many bytes it has."""
        check_pairs([(block, block)], self._limits)
        layout = self._kv_layout
        size_bytes = layout.block_bytes if block < self._limits.blocks else layout.window_block_bytes
        address: int = self._library.inferd_block(self.model, block)
        return address, size_bytes

    def close(self) -> None:
        """End the threads and give the memory back."""
        if self.model is not None:
            self._library.inferd_close(self.model)
        self.model = None
        if self._pages is not None:
            self._pages.close()
        if self._tower is not None:
            self._tower.close()
        self._logits = self._logits[:0].copy()

    def _place(self, watch: Watch, tokens: int) -> list[NDArray[Any]]:
        """Point the step to the vectors of pictures, the rows where they go, and what follows; returns these arrays."""
        step: Any = self._step
        step.picked, step.embedded, step.embedded_count = None, None, 0
        step.seen = step.turned = step.axes = None
        held: list[NDArray[Any]] = []
        if (found := watch.find()) is not None:
            rows, vectors = found
            picked, vectors = np.full(tokens, -1, np.int32), np.ascontiguousarray(vectors, np.float32)
            picked[rows] = np.arange(len(rows))
            step.picked, step.embedded, step.embedded_count = picked.ctypes.data, vectors.ctypes.data, len(vectors)
            held += [picked, vectors]
        if (reach := watch.reach()) is not None:
            seen = (reach + 1).astype(np.int32)
            step.seen = seen.ctypes.data
            held.append(seen)
        if (turned := watch.turn()) is not None:
            positions = np.ascontiguousarray(turned, np.int32)
            step.turned, step.axes = positions.ctypes.data, self._axes.ctypes.data
            held.append(positions)
        return held

    def _fill(self, batch: TokenBatch) -> list[NDArray[Any]]:
        """Point the step to the arrays of a batch; returns those that it points to."""
        tokens, sequences = len(batch.token_ids), len(batch.lengths)
        shapes = (batch.positions.shape, batch.starts.shape, batch.block_tables.shape[:1])
        if shapes != ((tokens,), (sequences + 1,), (sequences,)) or batch.block_tables.ndim != 2:  # noqa: PLR2004
            check_batch(batch, self._limits)
        step: Any = self._step
        held: list[NDArray[Any]] = []
        step.tokens, step.sequences, step.table_width = tokens, sequences, batch.block_tables.shape[1]
        step.logit_count = len(batch.logit_rows)
        arrays: dict[str, tuple[Any, Any]] = {name: (getattr(batch, name), np.int32) for name in _INTEGERS}
        step.hidden_count, step.hidden_rows = 0, None
        if batch.hidden_rows is not None:
            step.hidden_count = len(batch.hidden_rows)
            arrays["hidden_rows"] = (batch.hidden_rows, np.int32)
        if batch.sampling is not None:
            arrays |= _sampling_arrays(batch.sampling, step.logit_count)
        step.window_tables = None
        if self._limits.window_blocks:
            if batch.window_tables is None or batch.window_tables.shape != batch.block_tables.shape:
                check_batch(batch, self._limits)
            windows = np.array(batch.window_tables, np.int32, order="C")  # a copy, which the library changes
            held.append(windows)
            step.window_tables = windows.ctypes.data
        step.beyond = step.adapters = None
        if batch.adapters is not None:
            arrays["adapters"] = (_check_slots(batch.adapters, sequences), np.int32)
        if self._limits.border_tokens:
            check_beyond(batch, self._limits)
            arrays["beyond"] = (batch.beyond, np.int32)
        for name, (array, dtype) in arrays.items():
            flat = np.ascontiguousarray(array, dtype)
            held.append(flat)
            setattr(step, name, flat.ctypes.data)
        return held


def _sampling_arrays(sampling: DeviceSampling, rows: int) -> dict[str, tuple[Any, Any]]:
    """What chooses the tokens of so many rows, by name, with its type."""
    for name in _SAMPLING:
        if (shape := getattr(sampling, name).shape) != (rows,):
            raise ValueError(f"bad batch: {name} of shape {shape} for {rows} logit rows")
    return {name: (getattr(sampling, name), dtype) for name, dtype in _SAMPLING.items()}


def _check_slots(slots: NDArray[np.int32], sequences: int) -> NDArray[np.int32]:
    """See that there is one for each sequence; which are there the library knows."""
    if slots.shape != (sequences,):
        raise ValueError(f"bad batch: adapters of shape {slots.shape} for {sequences} sequences")
    return slots


def _make_logits(rows: int, limits: TokenLimits) -> NDArray[np.float32]:
    """Room for rows of logits, shape (rows, V), not contiguous."""
    return np.empty((rows, limits.vocabulary_size + _PADDING), np.float32)[:, : limits.vocabulary_size]
