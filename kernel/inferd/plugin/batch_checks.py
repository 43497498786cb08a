"""What a signature says of batches, held against its inputs and outputs."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Final

from inferd.plugin.batching import Fill
from inferd.plugin.tensor import BITS, ElementType, Signature, TensorInfo

LARGEST: Final = {ElementType.FLOAT16: 65504.0, ElementType.FLOAT: 3.4028234663852886e38}
FLOATS: Final = frozenset({*LARGEST, ElementType.DOUBLE})
SIGNED: Final = frozenset({ElementType.INT8, ElementType.INT16, ElementType.INT32, ElementType.INT64})
UNSIGNED: Final = frozenset({ElementType.UINT8, ElementType.UINT16, ElementType.UINT32, ElementType.UINT64})
BYTE_BITS: Final = 8


def check_batching(signature: Signature) -> None:
    """What a session says of batches.

    Raises:
        ValueError: It contradicts itself or the signature; the message names the field, and what it must be.
    """
    batching = signature.batching
    if wrong := [size for size in batching.preferred if not 1 <= size <= signature.most_batch]:
        raise ValueError(f"Batching.preferred has {wrong[0]}; it must be from 1 to most_batch, {signature.most_batch}")
    if batching.delay_s is not None and not 0 <= batching.delay_s < float("inf"):
        raise ValueError(f"Batching.delay_s is {batching.delay_s}; it must be 0 or more")
    if not 1 <= batching.filled_times < float("inf"):
        raise ValueError(f"Batching.filled_times is {batching.filled_times}; it must be 1 or more")
    if batching.paddings and signature.most_batch == 1:
        raise ValueError("Batching.paddings are for requests that are computed as one, and most_batch is 1")
    inputs, outputs = ({i.name: i for i in infos} for infos in (signature.inputs, signature.outputs))
    carried = {name for state in signature.states for name in (state.input_name, state.output_name)}
    for padding in batching.paddings:
        if not padding.fills:
            raise ValueError("a Padding fills nothing; it must name the dimensions of inputs that have its size")
        for fill in padding.fills:
            _check_place(fill.input_name, fill.dimension, inputs, carried, "input")
            _check_value(fill, inputs[fill.input_name].element_type)
        for cut in padding.cuts:
            _check_place(cut.output_name, cut.dimension, outputs, carried, "output")
    _check_once(signature)
    _check_cuts(signature)


def _check_place(name: str, dimension: int, infos: Mapping[str, TensorInfo], carried: Iterable[str], what: str) -> None:
    if name not in infos:
        raise ValueError(f"there is no {what} {name!r}; there are {', '.join(infos)}")
    if name in carried:
        raise ValueError(f"{what} {name!r} is a state of sequences, which is as large as it is")
    info = infos[name]
    if info.shape is None:
        raise ValueError(f"{what} {name!r} has no known number of dimensions, so none can be named")
    if not 1 <= dimension < len(info.shape):
        raise ValueError(
            f"{what} {name!r} has {len(info.shape)} dimensions; {dimension} must be from 1, behind the batch, to"
            f" {len(info.shape) - 1}"
        )
    if isinstance(size := info.shape[dimension], int):
        raise ValueError(  # noqa: TRY004 - of the rule
            f"dimension {dimension} of {what} {name!r} is always {size}; it must be a free one"
        )
    if BITS.get(info.element_type, BYTE_BITS) < BYTE_BITS:
        raise ValueError(f"{what} {name!r} is {info.element_type.name}, several elements in a byte")


def _check_value(fill: Fill, kind: ElementType) -> None:
    """That a value is one of the type; of types that no library counts in, 0 alone."""
    value, must = fill.value, ""
    if kind is ElementType.STRING:
        must = "" if isinstance(value, str) else "a text"
    elif isinstance(value, str):
        must = "a number"
    elif kind is ElementType.BOOL:
        must = "" if value in (0, 1) else "0 or 1"
    elif kind in FLOATS:
        most = LARGEST.get(kind, float("inf"))
        must = "" if abs(value) <= most or not isfinite(value) else f"at most {most:g}"
    elif kind in SIGNED | UNSIGNED:
        bits = BITS[kind]
        low, high = (0, (1 << bits) - 1) if kind in UNSIGNED else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        must = "" if isinstance(value, int) and low <= value <= high else f"a whole number from {low} to {high}"
    elif kind is ElementType.FLOAT8E8M0:
        must = "of another type: it has no 0"
    else:
        must = "" if value == 0 else "0"
    if must:
        raise ValueError(
            f"input {fill.input_name!r} is {kind.name}; what it is filled up with, {value!r}, must be {must}"
        )


def _check_once(signature: Signature) -> None:
    """No dimension follows two rules."""
    seen = set()
    for padding in signature.batching.paddings:
        places = [(fill.input_name, fill.dimension, "input") for fill in padding.fills]
        for name, dimension, what in (*places, *((c.output_name, c.dimension, "output") for c in padding.cuts)):
            if (name, dimension, what) in seen:
                raise ValueError(f"dimension {dimension} of {what} {name!r} is named twice")
            seen.add((name, dimension, what))


def _check_cuts(signature: Signature) -> None:
    """What has by its name the size of a rule is in that rule: else it would be told with what was filled up."""
    inputs = {info.name: info for info in signature.inputs}
    for padding in signature.batching.paddings:
        filled = {(fill.input_name, fill.dimension) for fill in padding.fills}
        cut = {(each.output_name, each.dimension) for each in padding.cuts}
        names = {(inputs[name].shape or ())[dimension] for name, dimension in filled} - {""}
        for infos, known, what, form in (
            (signature.inputs, filled, "input", "filled up, too"),
            (signature.outputs, cut, "output", "cut back"),
        ):
            for info in infos:
                for place, size in enumerate(info.shape or ()):
                    if size in names and (info.name, place) not in known:
                        raise ValueError(
                            f"dimension {place} of {what} {info.name!r} has the size {size!r}, which is filled up; it"
                            f" must be {form}, or have another name"
                        )
