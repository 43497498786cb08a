"""What a folder says of weights of 4 bits, and whether that is served. What is not known is refused by its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, UnsupportedModelError

GPTQ, AWQ, COMPRESSED = "gptq", "awq", "compressed-tensors"
BITS = 4
NARROWEST, WIDE = 32, 256  # groups of so many numbers, its double and fourfold; or of any multiple of the second
WORDS = {GPTQ: "qweight", AWQ: "qweight", COMPRESSED: "weight_packed"}
SCALES = {GPTQ: "scales", AWQ: "scales", COMPRESSED: "weight_scale"}
ZEROS = {GPTQ: "qzeros", AWQ: "qzeros", COMPRESSED: "weight_zero_point"}
GROUPS = {GPTQ: "g_idx", COMPRESSED: "weight_g_idx"}
SHAPE = "weight_shape"  # of compressed-tensors
# How a folder was made, where it came from, and how others are to serve it: no number of it depends on these.
HARMLESS = {
    GPTQ: frozenset(
        {
            *("damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "mse", "model_seqlen"),
            *("model_name_or_path", "model_file_base_name", "block_name_to_quantize", "batch_size", "pad_token_id"),
            *("module_name_preceding_first_block", "modules_in_block_to_quantize", "use_cuda_fp16", "use_exllama"),
            *("disable_exllama", "max_input_length", "exllama_config", "cache_block_outputs", "tokenizer", "dataset"),
            *("meta", "backend", "act_group_aware", "gptaq", "v2", "v2_alpha", "offload_to_disk", "pack_impl"),
            *("lm_head", "format"),
        }
    ),
    AWQ: frozenset(
        {
            *("modules_to_not_convert", "backend", "exllama_config", "fuse_max_seq_len", "modules_to_fuse", "do_fuse"),
            *("quantizer", "version_info"),
        }
    ),
    COMPRESSED: frozenset({"ignore", "global_compression_ratio", "version", "quantization_status"}),
}
WEIGHT_ARGUMENTS = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A linear module whose weights are packed.

    Attributes:
        inputs: Numbers that come in.
        outputs: Numbers that go out.
        scales: How its scales are stored, as safetensors names it.
    """

    inputs: int
    outputs: int
    scales: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How the weights of a folder are packed.

    Attributes:
        method: One of the three.
        group: Inputs in order that share a scale; 0 for all of a row.
        zeros: Whether there are zero points; if not they are all 8.
        ordered: Whether inputs are grouped in an order of their own.
        offset: What is added to a zero point that is stored.
        modules: By name, of the network.
    """

    method: str
    group: int
    zeros: bool
    ordered: bool
    offset: int
    modules: Mapping[str, Module]

    @property
    def names(self) -> frozenset[str]:
        """The weights of a folder that are part of packed ones."""
        kinds = {WORDS[self.method], SCALES[self.method], ZEROS[self.method], GROUPS.get(self.method), SHAPE}
        return frozenset(f"{module}.{kind}" for module in self.modules for kind in kinds if kind)


Stored = Mapping[str, tuple[str, tuple[int, ...]]]


def read_packing(path: Path, given: Any, stored: Stored) -> Packing:
    """What the `quantization_config` of a folder says.

    Args:
        path: Of the folder, for errors.
        given: What it says.
        stored: The type and shape of each weight in its files.

    Raises:
        UnsupportedModelError: It says something that is not served.
        LoadError: Weights are missing, or are not of the shape that they must have.
    """
    method = given.get("quant_method") if isinstance(given, dict) else None
    where = f"{path}/config.json: quantization_config"
    if not isinstance(method, str) or method not in WORDS:
        raise UnsupportedModelError(
            f"{where} {method!r} is not supported; take plain safetensors, or 4 bits by {', '.join(map(repr, WORDS))}"
        )
    told = {key: value for key, value in given.items() if key != "quant_method"}
    read = {GPTQ: _read_gptq, AWQ: _read_awq, COMPRESSED: _read_compressed}[method]
    group, zeros, ordered, offset = read(where, told)
    if group not in {0, NARROWEST, 2 * NARROWEST, 4 * NARROWEST} and group % WIDE:
        raise UnsupportedModelError(
            f"{where}: groups have {group} numbers; supported are {NARROWEST}, {2 * NARROWEST}, {4 * NARROWEST},"
            f" multiples of {WIDE} and whole rows"
        )
    modules = _find_modules(path, method, stored, group=group, zeros=zeros, ordered=ordered)
    if group >= max(each.inputs for each in modules.values()):
        group = 0  # none has more than one: nothing is counted by a number that stands for all of a row
    return Packing(method=method, group=group, zeros=zeros, ordered=ordered, offset=offset, modules=modules)


def _read_gptq(where: str, told: dict[str, Any]) -> tuple[int, bool, bool, int]:
    _demand(where, "bits", told.pop("bits", None), (BITS,))
    form = told.pop("checkpoint_format", "gptq")
    _demand(where, "checkpoint_format", form, ("gptq", "gptq_v2"))
    _demand(where, "pack_dtype", told.pop("pack_dtype", "int32"), ("int32",))
    _demand(where, "sym", told.pop("sym", True), (True, False))
    group, ordered = _whole(where, "group_size", told.pop("group_size", None)), bool(told.pop("desc_act", False))
    _refuse_others(where, told, HARMLESS[GPTQ])
    return group, True, ordered, 1 if form == "gptq" else 0


def _read_awq(where: str, told: dict[str, Any]) -> tuple[int, bool, bool, int]:
    _demand(where, "bits", told.pop("bits", told.pop("w_bit", None)), (BITS,))
    version = told.pop("version", "gemm")
    _demand(where, "version", version.lower() if isinstance(version, str) else version, ("gemm",))
    _demand(where, "zero_point", told.pop("zero_point", True), (True,))
    group = _whole(where, "group_size", told.pop("group_size", told.pop("q_group_size", None)))
    _refuse_others(where, told, HARMLESS[AWQ])
    return group, True, False, 0


def _read_compressed(where: str, told: dict[str, Any]) -> tuple[int, bool, bool, int]:
    _demand(where, "format", told.pop("format", None), ("pack-quantized",))
    sparsity = told.pop("sparsity_config", None)
    if sparsity and _object(where, "sparsity_config", sparsity).get("format") != "dense":
        _demand(where, "sparsity_config", sparsity, (None,))
    groups = told.pop("config_groups", None)
    _refuse_others(where, told, HARMLESS[COMPRESSED])
    if not isinstance(groups, dict) or not groups:
        raise LoadError(f"{where}: config_groups is {groups!r}; it must say how weights are packed")
    found = {_read_group(f"{where}: {name}", _object(where, name, group)) for name, group in groups.items()}
    if len(found) > 1:
        raise UnsupportedModelError(f"{where}: config_groups has groups that differ; supported is one kind of weights")
    return found.pop()


def _read_group(where: str, told: dict[str, Any]) -> tuple[int, bool, bool, int]:
    weights = _object(where, "weights", told.pop("weights", None) or {})
    _demand(where, "format", told.pop("format", None), (None, "pack-quantized"))
    told.pop("targets", None)  # which they are, the files say
    _refuse_others(where, told, frozenset())
    _demand(where, "num_bits", weights.pop("num_bits", None), (BITS,))
    _demand(where, "type", weights.pop("type", "int"), ("int",))
    strategy = weights.pop("strategy", None)
    _demand(where, "strategy", strategy, ("group", "channel"))
    size = weights.pop("group_size", None)
    group = _whole(where, "group_size", size) if strategy == "group" else 0
    order = weights.pop("actorder", None)
    _demand(where, "actorder", order, (None, False, "weight", "static", "group", "dynamic", True))
    zeros = not weights.pop("symmetric", True)
    _refuse_others(where, weights, WEIGHT_ARGUMENTS)
    return group, zeros, order in {"group", "dynamic", True}, 0


def _object(where: str, name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise LoadError(f"{where}: {name} is {given!r}; it must be an object")
    return dict(given)


def _demand(where: str, name: str, given: Any, supported: tuple[Any, ...]) -> None:
    if given not in supported:
        known = ", ".join(repr(each) for each in supported)
        raise UnsupportedModelError(f"{where}: {name} is {given!r}; supported: {known}")


def _whole(where: str, name: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or (given < 1 and given != -1):
        raise UnsupportedModelError(f"{where}: {name} is {given!r}; it must be a whole number above 0, or -1")
    return max(given, 0)


def _refuse_others(where: str, told: dict[str, Any], harmless: frozenset[str]) -> None:
    """Refuse what is set and not known: it may change what the numbers mean."""
    for name, value in told.items():
        if value and name not in harmless:
            raise UnsupportedModelError(f"{where}: {name} is {value!r}, which is not supported; take plain safetensors")


def _find_modules(
    path: Path, method: str, stored: Stored, *, group: int, zeros: bool, ordered: bool
) -> dict[str, Module]:
    """The packed modules, all of whose parts are there."""
    kind, found = f".{WORDS[method]}", {}
    for name in sorted(name for name in stored if name.endswith(kind)):
        module = name.removesuffix(kind)
        shape, scales = _shape(path, stored, name, "I32"), _shape(path, stored, f"{module}.{SCALES[method]}")
        if len(shape) != 2:  # noqa: PLR2004 - rows and columns
            raise LoadError(f"{path}: {name} has the shape {shape}; it must be a matrix")
        high, wide = shape
        inputs, outputs = {GPTQ: (8 * high, wide), AWQ: (high, 8 * wide), COMPRESSED: (8 * wide, high)}[method]
        groups = -(-inputs // group) if group else 1
        wanted = (outputs, groups) if method == COMPRESSED else (groups, outputs)
        if scales != wanted:
            raise LoadError(f"{path}: {module}.{SCALES[method]} has the shape {scales}; it must be {wanted}")
        if zeros:
            points = f"{module}.{ZEROS[method]}"
            held = (outputs // 8, groups) if method == COMPRESSED else (groups, outputs // 8)
            if (given := _shape(path, stored, points, "I32")) != held or outputs % 8:
                raise LoadError(
                    f"{path}: {points} has the shape {given}; it must be {held}, {groups * outputs} numbers of 4 bits"
                )
        if (ordered or method == GPTQ) and method in GROUPS:
            order = f"{module}.{GROUPS[method]}"
            if order in stored and _shape(path, stored, order, "I32") != (inputs,):
                raise LoadError(f"{path}: {order} must be {inputs} whole numbers")
            if ordered and order not in stored:
                raise LoadError(f"{path}: {order} is missing, which says the group of each input")
        found[module] = Module(inputs=inputs, outputs=outputs, scales=stored[f"{module}.{SCALES[method]}"][0])
    if not found:
        raise LoadError(f"{path}: config.json says {method!r}, and no weight is named …{kind}; take plain safetensors")
    return found


def _shape(path: Path, stored: Stored, name: str, kind: str = "") -> tuple[int, ...]:
    """Of a weight that must be there.

    Raises:
        LoadError: It is not, or is of another type.
    """
    if name not in stored:
        raise LoadError(f"{path}: {name} is missing, which belongs to a weight of 4 bits; fetch the folder again")
    found, shape = stored[name]
    if kind and found != kind:
        raise LoadError(f"{path}: {name} is {found}; it must be {kind}")
    return shape
