"""A trial of what no file says: whether the rows of a batch are computed each for itself."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import ElementType, Signature, Tensor, TensorInfo, TensorSession
from inferd.plugin.tensor import NUMPY
from inferd_onnx.values import PLAIN

ROWS = 2
FREE_SIZES = (16, 64)  # tried for sizes that are free; networks of pictures need the larger one
MOST_ELEMENTS = 1 << 22  # of an input's row
TOLERANCE = 0.01  # of an output's largest number: joined rows are summed in another order, and rounded in small types


def try_rows(session: TensorSession, signature: Signature) -> bool | None:
    """Compute two rows of random inputs together, and each alone.

    Returns:
        Whether both ways give the same; None where the model computes neither, or not with random inputs.
    """
    if not {each.element_type for each in (*signature.inputs, *signature.outputs)} <= PLAIN:
        return None
    names = [each.name for each in signature.outputs]
    for size in FREE_SIZES:
        inputs = _make_inputs(signature, size)
        if inputs is None:
            return None
        try:
            together = session.predict(inputs, names)
            alone = [session.predict(_row(inputs, row), names) for row in range(ROWS)]
        except Exception:  # noqa: BLE001, S112 - random inputs may be senseless: the next size, or nobody knows
            continue
        assert isinstance(together, Mapping)  # noqa: S101 - a graph gives one set
        return all(
            _is_same(together[name].array, place, each[name].array)
            for place, each in enumerate(alone)
            if isinstance(each, Mapping)
            for name in names
        )
    return None


def _make_inputs(signature: Signature, size: int) -> dict[str, Tensor] | None:
    """Random inputs of so many rows, all free sizes but those alike; None where they would be large."""
    random = np.random.default_rng(0)
    made = {}
    for info in signature.inputs:
        shape = _shape(info, size)
        if prod(shape[1:]) > MOST_ELEMENTS:
            return None
        made[info.name] = Tensor(
            element_type=info.element_type, shape=shape, array=_fill(info.element_type, shape, random)
        )
    return made


def _shape(info: TensorInfo, size: int) -> tuple[int, ...]:
    return (ROWS, *(each if isinstance(each, int) else size for each in (info.shape or ())[1:]))


def _fill(kind: ElementType, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Numbers around 0; whole ones are 0 and 1, which are valid as indices and as masks."""
    if kind is ElementType.STRING:
        return np.array(["a", "b"], dtype=object)[random.integers(0, 2, shape)]
    dtype = np.dtype(NUMPY[kind])
    return random.normal(0, 1, shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 2, shape).astype(dtype)


def _row(inputs: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    rows = {name: each.array[row : row + 1] for name, each in inputs.items()}
    return {
        name: Tensor(element_type=inputs[name].element_type, shape=array.shape, array=array)
        for name, array in rows.items()
    }


def _is_same(together: NDArray[Any], place: int, alone: NDArray[Any]) -> bool:
    """Whether a row of a joined output is the output of that row alone."""
    if together.shape != (ROWS, *alone.shape[1:]) or len(alone) != 1:
        return False
    one, other = together[place], alone[0]
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    largest = float(np.max(np.abs(other, where=np.isfinite(other), out=np.zeros_like(other)), initial=0))
    return np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * largest, equal_nan=True)
