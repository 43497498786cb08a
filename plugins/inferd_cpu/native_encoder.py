"""Encoders that the native library computes: their weights, packed, and one call for all layers of a step."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.finder import Part, Source
from inferd_cpu.inventory import Inventory
from inferd_cpu.native import ACTIVATIONS, NOT_FINITE, PARTS, VECTORS, EncoderKind, EncoderShape, EncoderStep, Native
from inferd_cpu.native_weights import BLOCK, LANES, TYPES, NativeWeights, find_unpackable
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import rows_of

Floats = NDArray[np.float32]
MATRICES: Final = ("qkv", "mix", "gate_up", "down")
_NORMS: Final = ("attention_norm", "attention_post_norm", "feed_norm", "feed_post_norm")
_KNOWN: Final = frozenset(
    {
        *MATRICES,
        *("up", "qkv_bias", "mix_bias", "gate_up_bias", "up_bias", "down_bias", "query_norm", "key_norm"),
        *_NORMS,
        *(f"{name}_bias" for name in _NORMS),
    }
)
"""Fields of a layer that the library computes."""
_OUTSIDE: Final = frozenset(
    {"embedding", "positions", "types", "embedding_norm", "embedding_norm_bias", "norm", "norm_bias", "rope_divisors"}
)
"""Fields of the model that are computed with numpy."""
_QKV: Final = 3  # sources of that part


def find_encoder_obstacle(a: Architecture, inventory: Inventory, native: Native) -> str:
    """Why the library cannot run this encoder, as a clause; "" when it can."""
    if why := _find_unknown(a, inventory):
        return why
    layer = a.layers[0]
    normed = any(part.field == "query_norm" for part in inventory.parts)
    for what, size, step in (
        ("width", a.width, BLOCK),
        ("feed-forward width", layer.feed_width, BLOCK),
        ("width of all heads' values", layer.mixed_width, BLOCK),
        ("width of queries, keys and values", layer.qkv_width, LANES),
        ("width of a key", layer.key_width if normed else 0, LANES),
    ):
        if size % step:
            return f"the {what} is {size}, which is not a multiple of {step}"
    layers = [part for part in inventory.parts if part.layer is not None]
    return find_unpackable([part for part in layers if part.field in {*MATRICES, "up"}], native)


def _find_unknown(a: Architecture, inventory: Inventory) -> str:
    """What of an encoder the library does not compute, as a clause."""
    for part in inventory.parts:
        if part.field not in (_OUTSIDE if part.layer is None else _KNOWN):
            return f"the library has no {part.field.replace('_', ' ')} of encoders"
    if any(part.field == "qkv" and len(part.sources) != _QKV for part in inventory.parts):
        return "queries, keys and values are in other pieces than three"
    family = a.family
    others = (family.head_norms not in {"", "head"}, family.head_norms_after, family.value_norm, family.unscaled)
    if any(others) or a.attention_cap or a.slope_bias or a.clamp or a.temperature_scale or a.parallel or a.streams > 1:
        return "its attention is one that the library does not know of encoders"
    if len({replace(each, window=0, rope=0) for each in a.layers}) > 1:
        return "heads or widths differ from layer to layer"
    return ""


def make_encoder_shape(a: Architecture, *, max_tokens: int, max_length: int, threads: int) -> EncoderShape:
    """The sizes of an encoder, for the library.

    Args:
        a: Its shape.
        max_tokens: Of a step.
        max_length: Of a sequence.
        threads: That compute.
    """
    layer = a.layers[0]
    kinds = (EncoderKind * len(a.layers))(*(EncoderKind(each.window, each.rope) for each in a.layers))
    sizes = ("heads", "kv_heads", "key_width", "value_width", "feed_width")
    return EncoderShape(
        kinds=kinds,
        layers=len(a.layers),
        width=a.width,
        **{name: getattr(layer, name) for name in sizes},
        rope_width=a.ropes[0].width if a.ropes else 0,
        ropes=len(a.ropes),
        threads=threads,
        max_tokens=max_tokens,
        max_length=max_length,
        layer_norm=a.family.norm == "layer",
        sum_norms=a.family.sum_norms,
        activation=ACTIVATIONS.index(a.activation),
        gated=a.family.gated,
        epsilon=a.epsilon,
        attention_scale=a.attention_scale,
        residual_scale=a.residual_scale,
    )


def measure_encoder(native: Native, shape: EncoderShape) -> int:
    """Bytes that an encoder takes in the library beside its weights."""
    size_bytes: int = native.library.inferd_encoder_bytes(ctypes.byref(shape), native.kernels)
    return size_bytes


class NativeEncoder:
    """Layers of an encoder in the library, with its threads.

    Args:
        native: The library.
        shape: Sizes.
        formats: Packed formats of `MATRICES`, shape (4 * layers,), by matrix and then by layer.
        vector_floats: Numbers of all vectors.

    Attributes:
        handle: The library's.

    Raises:
        LoadError: The memory cannot be had.
    """

    def __init__(self, native: Native, shape: EncoderShape, *, formats: NDArray[np.int32], vector_floats: int) -> None:
        self._library = native.library
        self._step = EncoderStep()
        self._layers: int = shape.layers
        formats = np.ascontiguousarray(formats, np.int32)
        self.handle: int | None = self._library.inferd_encoder_open(
            ctypes.byref(shape), native.kernels, formats.ctypes.data, vector_floats
        )
        if self.handle is None:
            raise LoadError("the operating system gives no memory for the weights and the workspace of the encoder")

    def encode(
        self,
        residual: Floats,
        starts: Sequence[int] | NDArray[np.integer[Any]],
        turns: tuple[Floats, Floats],
        *,
        layers: range | None = None,
    ) -> None:
        """Make hidden states of embeddings.

        Args:
            residual: Contiguous, shape (T, W); overwritten.
            starts: Where each sequence begins, and the end of all; shape (S + 1,).
            turns: Cosines and sines of each rotation, shape (ropes, T, rope width / 2).
            layers: Those that compute; None for all.

        Raises:
            ValueError: There are more tokens than there is room for, or a sequence has none.
        """
        first = np.ascontiguousarray(starts, np.int32)
        cosines, sines = (np.ascontiguousarray(each, np.float32) for each in turns)
        step = self._step
        step.tokens, step.sequences, step.starts = len(residual), len(first) - 1, first.ctypes.data
        step.first_layer, step.layers = (0, self._layers) if layers is None else (layers.start, len(layers))
        step.residual, step.cosines, step.sines = residual.ctypes.data, cosines.ctypes.data, sines.ctypes.data
        if self._library.inferd_encode(self.handle, ctypes.byref(step)):
            raise ValueError(
                f"{len(residual)} tokens in sequences that begin at {first.tolist()} are not what was agreed"
            )

    def close(self) -> None:
        """End the threads and give the memory back."""
        if self.handle is not None:
            self._library.inferd_encoder_close(self.handle)
        self.handle = None


@dataclass(frozen=True, slots=True)
class _Layers:
    """The parts of an inventory that are of layers, or the others; as `NativeWeights` and `load_weights` read it."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        return sum(prod(part.shape) for part in self.parts)


def split_inventory(inventory: Inventory) -> tuple[_Layers, _Layers]:
    """What is of layers, and the rest."""
    parts = inventory.parts
    inside = tuple(part for part in parts if part.layer is not None)
    return _Layers(inside), _Layers(tuple(part for part in parts if part.layer is None))


class EncoderWeights(NativeWeights):
    """The weights of an encoder's layers, packed.

    Args:
        file: The file.
        architecture: Its shape.
        inventory: Its tensors, of layers alone.
        native: The library.
        quantization: "auto", "8bit" or "4bit".
    """

    def encoder_formats(self) -> NDArray[np.int32]:
        """As `NativeEncoder` takes them."""
        return self.formats()[: len(MATRICES) * len(self._architecture.layers)]

    def _divide(self, part: Part) -> None:
        """Queries, keys and values have one format."""
        del part

    def _weigh_inputs(self, model: int | None, place: tuple[str, int]) -> None:
        """All inputs count the same."""
        del model, place

    def _pack_source(
        self, model: int | None, place: tuple[str, int], index: int, source: Source, counts: Floats | None
    ) -> None:
        del counts
        tensor, order = source.tensor, self._order(source)
        error = self._native.library.inferd_encoder_pack(
            model,
            PARTS.index(place[0]),
            place[1],
            index,
            TYPES[tensor.format.name],
            rows_of(self._file, source).ctypes.data,
            None if order is None else order.ctypes.data,
        )
        if error == NOT_FINITE:
            raise self._not_finite(source)
        self._check(error, tensor)
        self._file.release(tensor)

    def _set(self, model: int | None, vector: str, layer: int, numbers: Floats) -> None:
        if vector == "frequencies":  # rotations come with each step
            return
        numbers = np.ascontiguousarray(numbers, np.float32)
        self._native.library.inferd_encoder_set(model, VECTORS.index(vector), layer, numbers.ctypes.data, numbers.size)
