"""Trials of what no file says: whether rows are computed each for itself, and what filling them up changes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import ElementType, Signature, StoppableSession, Tensor, TensorInfo, TensorSession
from inferd.plugin.tensor import NUMPY
from inferd_onnx.values import PLAIN

ROWS = 2
FREE_SIZES = (16, 64)  # tried for sizes that are free; networks of pictures need the larger one
MOST_ELEMENTS = 1 << 22  # of an input's row
TOLERANCE = 0.01  # of an output's largest number: joined rows are summed in another order, and rounded in small types

TRIAL_S = 10.0  # a trial takes no longer: a loop of the graph may have no end
AGAIN_S = 0.05


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
        calls = [inputs, *(_row(inputs, row) for row in range(ROWS))]
        if (given := _compute(session, calls, names)) is None:  # the next size, or nobody knows
            continue
        together, *alone = given
        return all(
            _is_same(together[name].array, place, each[name].array)
            for place, each in enumerate(alone)
            for name in names
        )
    return None


def try_paddings(session: TensorSession, signature: Signature) -> str:
    """Compute a short random request alone, and filled up beside a longer one.

    Returns:
        The output that is not the same both ways; "" for none, and where the model computes no random inputs.
    """
    if not {each.element_type for each in (*signature.inputs, *signature.outputs)} <= PLAIN:
        return ""
    names = [each.name for each in signature.outputs]
    for size in FREE_SIZES:
        short = size // 2 + 1
        rows = _make_inputs(signature, size)
        if rows is None:
            return ""
        longer, own = _row(rows, 1), _shorten(_row(rows, 0), signature, short)
        filled = _fill_up(own, signature, size)
        joined = {name: _joined(filled[name], longer[name]) for name in filled}
        if (given := _compute(session, [joined, own], names)) is None:
            continue
        together, alone = given
        cut = {name: _cut_back(name, each.array, signature, short) for name, each in together.items()}
        return next((name for name in names if not _is_same(cut[name], 0, alone[name].array)), "")
    return ""


def _compute(
    session: TensorSession, calls: list[dict[str, Tensor]], names: list[str]
) -> list[Mapping[str, Tensor]] | None:
    """What each call gives; None where one fails, as random inputs may be senseless, or takes too long."""
    given = []
    try:
        with _bounded(session):
            for inputs in calls:
                outputs = session.predict(inputs, names)
                if not isinstance(outputs, Mapping):
                    return None  # a graph gives one set
                given.append(outputs)
    except Exception:  # noqa: BLE001 - whatever it is, the trial tells nothing
        return None
    return given


@contextmanager
def _bounded(session: TensorSession) -> Iterator[None]:
    """Calls of this thread are stopped when they have taken too long together."""
    thread, left = threading.get_ident(), threading.Event()

    def watch() -> None:
        late = not left.wait(TRIAL_S)
        while late and isinstance(session, StoppableSession):
            session.stop(thread)  # there may be none just now
            late = not left.wait(AGAIN_S)

    watcher = threading.Thread(target=watch, name="trial", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()


def _shorten(inputs: Mapping[str, Tensor], signature: Signature, size: int) -> dict[str, Tensor]:
    """Every dimension that a rule fills up cut to a size."""
    arrays = {name: each.array for name, each in inputs.items()}
    for padding in signature.batching.paddings:
        for fill in padding.fills:
            arrays[fill.input_name] = arrays[fill.input_name].take(range(size), axis=fill.dimension)
    return _tensors(inputs, arrays)


def _fill_up(inputs: Mapping[str, Tensor], signature: Signature, size: int) -> dict[str, Tensor]:
    """Every dimension that a rule fills up brought to a size."""
    arrays = {name: each.array for name, each in inputs.items()}
    for padding in signature.batching.paddings:
        for fill in padding.fills:
            array = arrays[fill.input_name]
            shape = list(array.shape)
            shape[fill.dimension] = size - shape[fill.dimension]
            more = np.full(shape, fill.value, array.dtype)
            arrays[fill.input_name] = np.concatenate([array, more], axis=fill.dimension)
    return _tensors(inputs, arrays)


def _cut_back(name: str, array: NDArray[Any], signature: Signature, size: int) -> NDArray[Any]:
    for padding in signature.batching.paddings:
        for cut in padding.cuts:
            if cut.output_name == name:
                array = array.take(range(min(size, array.shape[cut.dimension])), axis=cut.dimension)
    return array


def _tensors(like: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {
        name: Tensor(element_type=like[name].element_type, shape=array.shape, array=array)
        for name, array in arrays.items()
    }


def _joined(one: Tensor, other: Tensor) -> Tensor:
    array = np.concatenate([one.array, other.array])
    return Tensor(element_type=one.element_type, shape=array.shape, array=array)


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
    return _tensors(inputs, {name: each.array[row : row + 1] for name, each in inputs.items()})


def _is_same(together: NDArray[Any], place: int, alone: NDArray[Any]) -> bool:
    """Whether a row of a joined output is the output of that row alone."""
    if together.shape != (ROWS, *alone.shape[1:]) or len(alone) != 1:
        return False
    one, other = together[place : place + 1], alone  # still arrays where a row is a single text
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    largest = float(np.max(np.abs(other, where=np.isfinite(other), out=np.zeros_like(other)), initial=0))
    return np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * largest, equal_nan=True)
