"""What a loaded graph takes and gives, in the words of the interface."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from inferd.plugin import ElementType, LoadError, Signature, TensorInfo, TensorState, UnsupportedModelError
from inferd.plugin.tensor import BITS

DEFAULT_MAX_BATCH = 64
BYTE_BITS = 8
TENSOR = re.compile(r"(?P<optional>optional\()?tensor\((?P<element>\w+)\)\)?")
NAMELESS = re.compile(r"unk_+\d+|DynamicDimension\.\d+|\w+_dynamic_axes_\d+|\w+_o\d+__d\d+|s\d+|None|\?|-?\d*")
"""Names that exporters make up, of sizes that have none: of tf2onnx, Paddle, torch."""
BATCH = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
STATE_SHAPE = re.compile(r"(?P<name>.+):(?P<shape>\d+(x\d+)*)")
SPELLINGS = {"float": ElementType.FLOAT}  # the runtime's words for types are ONNX's in small letters but for these
TYPES: Mapping[str, ElementType] = {**{each.name.lower(): each for each in ElementType}, **SPELLINGS}


TENSOR_SETTINGS = ("states", "max_batch", "padding", "preferred_batches", "batch_delay_ms")


def find_tensor_settings(settings: Mapping[str, Any]) -> list[str]:
    """Settings that are given and say something of models of tensors alone: others would pass over them."""
    return [name for name in TENSOR_SETTINGS if settings[name] not in (None, "")]


class Bound(NamedTuple):
    """What a model's settings say of its signature."""

    max_batch: int | None
    states: str
    optional_inputs: bool
    threads: int


def describe(session: Any, *, unranked: Collection[str] | None, bound: Bound) -> Signature:
    """The signature of a session of the runtime.

    Args:
        session: It.
        unranked: Names of inputs and outputs without a number of sizes; None where the file does not tell, and then
            none of those whose sizes the runtime does not know has one.
        bound: What settings say.

    Raises:
        UnsupportedModelError: An input or output is no tensor.
        LoadError: A setting contradicts the model.
    """

    def info(node: Any, what: str, *, optional: bool = False) -> TensorInfo:
        element, may_miss = _read_type(node, what)
        sizes = tuple(node.shape)
        unknown = not sizes and (unranked is None or node.name in unranked)
        return TensorInfo(
            name=node.name,
            element_type=element,
            shape=None if unknown else tuple(_read_size(size) for size in sizes),
            optional=optional or may_miss,
        )

    inputs = [info(node, "input") for node in session.get_inputs()]
    if bound.optional_inputs:
        inputs += [info(node, "input", optional=True) for node in session.get_overridable_initializers()]
    outputs = [info(node, "output") for node in session.get_outputs()]
    most_batch = derive_most_batch(inputs, outputs, wanted=bound.max_batch)
    states = tuple(
        _read_state(text, inputs, outputs, batched=most_batch > 1) for text in bound.states.split(",") if text.strip()
    )
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        most_batch=most_batch,
        states=states,
        threads=bound.threads,
    )


def derive_most_batch(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, wanted: int | None) -> int:
    """How many requests may be joined along the first dimension.

    It must be free in every input and output, and the same one. Whether rows are computed each for itself no file
    says: without `wanted` it must be called like a batch, or have no name and lead at least two sizes of each input;
    and then it is tried, see `trial.py`.

    Raises:
        LoadError: More than one is wanted, and it is not free.
    """
    tensors = (*inputs, *outputs)
    blocking = next((each for each in tensors if not each.shape or isinstance(each.shape[0], int)), None)
    names = {_own_name(each.shape[0]) for each in tensors if each.shape} - {""}
    elsewhere = {size for each in tensors for size in (each.shape or ())[1:]} & names
    packed = next((each for each in tensors if BITS.get(each.element_type, BYTE_BITS) < BYTE_BITS), None)
    if blocking is None and packed is None and len(names) <= 1 and not elsewhere:
        if wanted is not None:
            return wanted
        named = all(BATCH.fullmatch(name) for name in names)
        deep = names or all(len(each.shape or ()) > 1 for each in inputs)
        return DEFAULT_MAX_BATCH if named and deep and not any(each.optional for each in inputs) else 1
    if wanted is not None and wanted > 1:
        why = f"{blocking.name!r} has the shape {blocking.shape}" if blocking is not None else f"it is {sorted(names)}"
        if packed is not None:
            why = f"{packed.name!r} is {packed.element_type.name}, whose rows do not begin at bytes"
        raise LoadError(
            f"setting 'max_batch' is {wanted}, but the first size of every input and output must be the same free one:"
            f" {why}; leave the setting out"
        )
    return 1


def names_batch(signature: Signature) -> bool:
    """Whether the first size of an input has a name that says that it is a batch."""
    return any(BATCH.fullmatch(_own_name(each.shape[0])) for each in signature.inputs if each.shape)


def _own_name(size: int | str) -> str:
    """The name of a free size, if its author gave it one."""
    return "" if isinstance(size, int) or NAMELESS.fullmatch(size) else size


def _read_size(size: int | str | None) -> int | str:
    if isinstance(size, int):
        return size if size >= 0 else ""  # -1: what older exporters write for any
    return "" if size in (None, "?", "None", "-1") else size


def _read_type(node: Any, what: str) -> tuple[ElementType, bool]:
    """The type of an input or output, and whether it may be missing."""
    found = TENSOR.fullmatch(node.type)
    if found is None:
        raise UnsupportedModelError(f"{what} {node.name!r} is of type {node.type}; only tensors can be sent")
    element = TYPES.get(found["element"])
    if element is None:
        raise UnsupportedModelError(f"{what} {node.name!r} has elements of the unknown type {found['element']}")
    return element, bool(found["optional"])


def _read_state(
    text: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, batched: bool
) -> TensorState:
    """A state of the setting: INPUT=OUTPUT, and perhaps the shape at the start."""
    left, mark, right = text.strip().partition("=")
    takes = {each.name: each for each in inputs}
    gives = {each.name: each for each in outputs}
    shape: tuple[int, ...] | None = None
    if right not in gives and (found := STATE_SHAPE.fullmatch(right)):
        right, shape = found["name"], tuple(map(int, found["shape"].split("x")))
    if not mark or left not in takes or right not in gives:
        raise LoadError(
            f"setting 'states' has {text.strip()!r}; it must be INPUT=OUTPUT or INPUT=OUTPUT:2x1x128 with an input of"
            f" {', '.join(takes)} and an output of {', '.join(gives)}"
        )
    taken, given = takes[left], gives[right]
    if taken.element_type is not given.element_type:
        raise LoadError(
            f"setting 'states': input {left!r} is {taken.element_type.name}, output {right!r} {given.element_type.name}"
        )
    if taken.element_type is ElementType.STRING or (shape is None and taken.shape is None):
        raise LoadError(f"setting 'states': input {left!r} has no zeros to start from; name a shape, and no texts")
    sizes = taken.shape[1:] if batched and taken.shape else taken.shape
    if shape is None:
        shape = tuple(size if isinstance(size, int) else 1 for size in sizes or ())
    elif sizes is not None and not _fits(shape, sizes):
        raise LoadError(f"setting 'states': the start of {left!r} has the shape {shape}, but it must be like {sizes}")
    return TensorState(input_name=left, output_name=right, start_shape=shape)


def _fits(shape: Sequence[int], sizes: Sequence[int | str]) -> bool:
    return len(shape) == len(sizes) and all(
        not isinstance(size, int) or size == own for own, size in zip(shape, sizes, strict=True)
    )
