"""The native library: found, loaded and described to ctypes. A call releases the GIL."""

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Final

INTERFACE: Final = 17  # as in native/api.cpp
LIBRARY: Final = Path(__file__).with_name("_native.so")
LACKING: Final = LIBRARY.with_suffix(".txt")  # written by the build: what is missing, and on the next line the fix
FIX: Final = "make native"

LAYER_PARTS: Final = (
    *("qkv", "mix", "gate_up", "down"),
    *("expert_gate_up", "expert_down", "shared_gate_up", "shared_down"),
)
EXPERT_PARTS: Final = ("expert_gate_up", "expert_down")  # one matrix for each expert
PARTS: Final = (*LAYER_PARTS, "head", "embedding")
VECTORS: Final = (
    *("attention_norm", "attention_norm_bias", "qkv_bias", "query_norm", "key_norm", "sinks", "mix_bias"),
    *("attention_post_norm", "attention_post_norm_bias", "feed_norm", "feed_norm_bias", "gate_up_bias", "down_bias"),
    *("feed_post_norm", "feed_post_norm_bias", "router", "router_bias", "choice_bias"),
    *("expert_gate_up_bias", "expert_down_bias", "shared_router"),
    *("norm", "norm_bias", "head_bias", "frequencies", "positions"),
)
ACTIVATIONS: Final = ("silu", "gelu", "gelu_tanh", "relu2", "clamped")
GATINGS: Final = ("softmax", "sigmoid", "chosen")
HEAD_NORMS: Final = ("", "head", "heads", "row")
MAX_ROPES: Final = 2
MAX_GROUPS: Final = 256
W8, W4, W4M = 0, 1, 2  # packed formats: 8 bits, 4 bits, 4 bits with minima
THREE_FORMATS: Final = 1 << 24  # beside one for queries, one for keys and one for values, as in native/model.h
KV_FORMATS: Final = {"bf16": 0, "f32": 1, "i8": 2}
NOT_FINITE: Final = 100  # what `inferd_pack` returns for weights that are not finite


class NativeMissing(Exception):  # noqa: N818 - not a defect: the backend works without it
    """The native library is not there, or cannot be used on this processor.

    Attributes:
        fix: The command that mends it, or "".
    """

    def __init__(self, why: str, *, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


class LayerKind(Structure):
    """What tells one layer from another; the fields of `LayerKind` in native/model.h."""

    _fields_ = (("window", c_int32), ("rope", c_int32), ("routed", c_int32))


class Shape(Structure):
    """Sizes of a network and of what is kept for it; the fields of `Shape` in native/model.h."""

    _fields_ = (
        ("kinds", POINTER(LayerKind)),
        *(
            (name, c_int32)
            for name in (
                *("layers", "width", "feed_width", "heads", "kv_heads", "key_width", "value_width", "rope_width"),
                *("vocabulary_size", "context_tokens", "block_tokens", "blocks", "max_sequences", "max_step_tokens"),
                "window_blocks",
                *("kv_format", "threads", "ropes", "layer_norm", "head_norms", "head_norms_after", "parallel"),
                *("activation", "gated", "feed_biased", "temperature_tokens"),
                *("experts", "experts_used", "expert_width", "shared_width", "gating", "normalised"),
                *("groups", "groups_used"),
            )
        ),
        *(
            (name, c_float)
            for name in (
                *("epsilon", "attention_scale", "attention_cap", "clamp", "temperature_scale"),
                *("embedding_scale", "residual_scale", "logit_scale", "logit_cap"),
                "router_scale",
            )
        ),
        ("magnitudes", c_float * MAX_ROPES),
    )


class Step(Structure):
    """One step; the fields of `Step` in native/model.h."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                *("tokens", "sequences", "table_width", "logit_count", "logits_stride", "hidden_count"),
                "embedded_count",
            )
        ),
        *(
            (name, c_void_p)
            for name in (
                *("token_ids", "positions", "starts", "lengths", "block_tables", "logit_rows", "hidden_rows"),
                *("window_tables", "beyond", "adapters", "picked", "embedded", "seen", "turned", "axes"),
                *("logits", "hidden", "chosen", "temperatures", "top_k", "top_p", "min_p", "points"),
            )
        ),
    )


class EncoderKind(Structure):
    """What tells one layer of an encoder from another; the fields of `EncoderKind` in native/encoder.h."""

    _fields_ = (("window", c_int32), ("rope", c_int32))


class EncoderShape(Structure):
    """Sizes of an encoder; the fields of `EncoderShape` in native/encoder.h."""

    _fields_ = (
        ("kinds", POINTER(EncoderKind)),
        *(
            (name, c_int32)
            for name in (
                *("layers", "width", "feed_width", "heads", "kv_heads", "key_width", "value_width", "rope_width"),
                *("ropes", "threads", "max_tokens", "max_length", "layer_norm", "sum_norms", "activation", "gated"),
            )
        ),
        *((name, c_float) for name in ("epsilon", "attention_scale", "residual_scale")),
    )


class EncoderStep(Structure):
    """One step of an encoder; the fields of `EncoderStep` in native/encoder.h."""

    _fields_ = (
        *((name, c_int32) for name in ("tokens", "sequences", "first_layer", "layers")),
        *((name, c_void_p) for name in ("starts", "residual", "cosines", "sines")),
    )


_FUNCTIONS: Final = {
    "inferd_kernels": (c_void_p, [c_char_p, POINTER(c_char_p)]),
    "inferd_kernels_name": (c_char_p, [c_void_p]),
    "inferd_kernels_description": (c_char_p, [c_void_p]),
    "inferd_set_grids": (None, [c_void_p]),
    "inferd_can_pack": (c_int, [c_int]),
    "inferd_natural_weight": (c_int, [c_int]),
    "inferd_pack_message": (c_char_p, [c_int]),
    "inferd_packed_bytes": (c_size_t, [c_void_p, c_int, c_int, c_int]),
    "inferd_pool_bytes": (c_size_t, [POINTER(Shape)]),
    "inferd_workspace_bytes": (c_size_t, [POINTER(Shape), c_void_p]),
    "inferd_open": (c_void_p, [POINTER(Shape), c_void_p, c_void_p, c_size_t, c_int]),
    "inferd_close": (None, [c_void_p]),
    "inferd_weigh_inputs": (c_int, [c_void_p, c_int, c_void_p, c_int, c_int, c_void_p]),
    "inferd_pack": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_void_p]),
    "inferd_set_vector": (None, [c_void_p, c_int, c_int, c_void_p, c_int]),
    "inferd_fill_pool": (None, [c_void_p]),
    "inferd_set_adapter": (c_int, [c_void_p, c_int, c_void_p]),
    "inferd_step": (c_int, [c_void_p, POINTER(Step)]),
    "inferd_block_bytes": (c_size_t, [POINTER(Shape), c_int]),
    "inferd_block": (c_void_p, [c_void_p, c_int]),
    "inferd_copy_blocks": (None, [c_void_p, c_void_p, c_int]),
    "inferd_encoder_bytes": (c_size_t, [POINTER(EncoderShape), c_void_p]),
    "inferd_encoder_open": (c_void_p, [POINTER(EncoderShape), c_void_p, c_void_p, c_size_t]),
    "inferd_encoder_close": (None, [c_void_p]),
    "inferd_encoder_pack": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_void_p, c_void_p]),
    "inferd_encoder_set": (None, [c_void_p, c_int, c_int, c_void_p, c_int]),
    "inferd_encode": (c_int, [c_void_p, POINTER(EncoderStep)]),
    "inferd_choose_token": (
        c_int,
        [c_void_p, c_void_p, c_int, c_float, c_int64, c_double, c_double, c_double, c_void_p, c_void_p],
    ),
}


class Native:
    """The library with the kernels of one instruction set.

    Attributes:
        library: Its functions, as native/api.cpp declares them.
        kernels: The table of kernels, as its functions take it.
        isa: The name of the instruction set.
        description: How products are computed, for people.

    Raises:
        NativeMissing: There is no library, it is of another build, or `isa` cannot be used on this processor.
    """

    def __init__(self, isa: str = "auto", *, path: Path = LIBRARY) -> None:
        self.library = _load(path)
        _set_grids(self.library)
        self.kernels = _find_kernels(self.library, isa)
        self.isa: str = self.library.inferd_kernels_name(self.kernels).decode()
        self.description = _describe(self.library, self.kernels)


def describe(*, path: Path = LIBRARY) -> str:
    """How products are computed, for people: without numpy, and nothing can be computed by it.

    Raises:
        NativeMissing: As of `Native`.
    """
    library = _load(path)
    return _describe(library, _find_kernels(library, "auto"))


def _find_kernels(library: ctypes.CDLL, isa: str) -> int:
    why = c_char_p()
    kernels: int | None = library.inferd_kernels(isa.encode(), ctypes.byref(why))
    if kernels is None:
        raise NativeMissing(f"instruction set {isa!r} cannot be used: {(why.value or b'').decode()}")
    return kernels


def _describe(library: ctypes.CDLL, kernels: int) -> str:
    description: str = library.inferd_kernels_description(kernels).decode()
    return description


def _set_grids(library: ctypes.CDLL) -> None:
    import numpy as np  # noqa: PLC0415 - whoever only asks what there is does without

    from inferd_weights.grids import IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS  # noqa: PLC0415 - as above

    grids = (IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S)  # in the order of native/ggml_small.h
    numbers = np.concatenate([grid.vectors.reshape(-1) for grid in grids])
    library.inferd_set_grids(numbers.ctypes.data)


def _load(path: Path) -> ctypes.CDLL:
    if not path.exists():
        why, fix = read_lacking() or ("the native library is not built", FIX)
        raise NativeMissing(why, fix=fix)
    try:
        library = ctypes.CDLL(str(path))
        library.inferd_interface.restype = c_int
        interface = library.inferd_interface()
    except (OSError, AttributeError) as error:
        raise NativeMissing(f"{path.name} cannot be loaded: {error}", fix=FIX) from None
    if interface != INTERFACE:
        age = "older" if interface < INTERFACE else "newer"
        why = f"{path.name} is {age} than the Python code beside it (interface {interface}; {INTERFACE} is needed)"
        raise NativeMissing(why, fix=FIX)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def read_lacking(path: Path = LACKING) -> tuple[str, str] | None:
    """What the build could not make, and the fix; None when it made everything."""
    try:
        why, _, fix = path.read_text(encoding="utf-8").strip().partition("\n")
    except OSError:
        return None
    return why, fix.strip()
