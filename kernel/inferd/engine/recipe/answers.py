"""Outputs of a model, as a recipe has them told: labels, spelled texts, vectors."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.plugin.recipe import LabelOutput, PlainOutput, SpelledOutput, VectorOutput
from inferd.plugin.tensor import ElementType, Tensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from inferd.plugin.recipe import RecipeOutput

SCORE: Final = "_score"
NUMBERS: Final = frozenset({"f", "i", "u"})
ROWS, STEPS = 2, 3  # dimensions of [rows, labels] and of [rows, steps, labels]


def describe_output(output: RecipeOutput, source: TensorInfo) -> list[TensorInfo]:
    """What clients get, for the signature.

    Raises:
        ValueError: The model's output is not what the recipe takes it for.
    """
    rows = source.shape[0] if source.shape else ""
    match output:
        case LabelOutput():
            _expect(source, ROWS, len(output.labels))
            shape = (rows, output.top)
            return [
                TensorInfo(name=output.name, element_type=ElementType.STRING, shape=shape),
                TensorInfo(name=output.name + SCORE, element_type=ElementType.FLOAT, shape=shape),
            ]
        case SpelledOutput():
            _expect(source, STEPS, len(output.labels))
            return [TensorInfo(name=output.name, element_type=ElementType.STRING, shape=(rows,))]
        case VectorOutput():
            _expect(source, STEPS, None)
            width = source.shape[2] if source.shape else ""
            return [TensorInfo(name=output.name, element_type=ElementType.FLOAT, shape=(rows, width))]
        case PlainOutput():
            told = source.description
            return [
                TensorInfo(name=output.name, element_type=source.element_type, shape=source.shape, description=told)
            ]


def tell(output: RecipeOutput, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What clients get of an output.

    Raises:
        TypeError: The model gave something else than it said.
    """
    source = outputs[output.takes]
    if isinstance(output, PlainOutput):
        return {output.name: source}
    array = source.array
    if array.dtype.kind not in NUMBERS:
        raise TypeError(f"output {output.takes!r} is {source.element_type.name}; the recipe takes numbers of it")
    match output:
        case LabelOutput():
            return _tell_labels(output, _sized(output, array, ROWS))
        case SpelledOutput():
            return _tell_spelled(output, _sized(output, array, STEPS))
        case VectorOutput():
            return _tell_vector(output, array, inputs)


def _tell_labels(output: LabelOutput, numbers: NDArray[Any]) -> dict[str, Tensor]:
    with np.errstate(over="ignore"):
        scores = numbers.astype(np.float32, copy=False)
    if output.activation == "softmax":
        with np.errstate(invalid="ignore"):  # Infinity less Infinity, which is refused
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            scores = powers / powers.sum(-1, keepdims=True)
    elif output.activation == "sigmoid":
        scores = np.float32(1) / (np.float32(1) + np.exp(-np.clip(scores, -80, 80)))  # no overflow beyond
    _refuse_none(output, scores)
    best = np.argsort(-scores, axis=-1, kind="stable")[:, : output.top]
    found = np.take_along_axis(scores, best, -1).astype(np.float32, copy=False)
    return {
        output.name: _texts([[output.labels[number] for number in row] for row in best.tolist()], best.shape),
        output.name + SCORE: Tensor(element_type=ElementType.FLOAT, shape=found.shape, array=found),
    }


def _tell_spelled(output: SpelledOutput, numbers: NDArray[Any]) -> dict[str, Tensor]:
    _refuse_none(output, numbers)
    texts = []
    for row in numbers.argmax(-1):
        changes = row[np.flatnonzero(np.diff(row, prepend=-1))]
        texts.append("".join(output.labels[number] for number in changes.tolist() if number != output.blank))
    return {output.name: _texts(texts, (len(texts),))}


def _tell_vector(output: VectorOutput, states: NDArray[Any], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if states.ndim != STEPS:
        raise TypeError(f"output {output.takes!r} has shape {list(states.shape)}; it must be [rows, tokens, width]")
    mask: NDArray[Any] = np.ones((len(states), len(states[0]) if len(states) else 0), np.float32)
    if output.mask in inputs:
        mask = inputs[output.mask].array.astype(np.float32)
    if mask.shape != states.shape[:2]:
        raise TypeError(f"output {output.takes!r} has shape {list(states.shape)}, and its mask {list(mask.shape)}")
    if output.pooling == "mean":
        vectors = (states * mask[:, :, None]).sum(1, dtype=np.float64) / np.maximum(mask.sum(1), 1)[:, None]
    else:
        last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1] > 0, axis=1)
        places = np.argmax(mask > 0, axis=1) if output.pooling == "first" else last
        vectors = states[np.arange(len(states)), places].astype(np.float64)
    if output.normalize:
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1)
    made = vectors.astype(np.float32)
    return {output.name: Tensor(element_type=ElementType.FLOAT, shape=made.shape, array=made)}


def _refuse_none(output: LabelOutput | SpelledOutput, scores: NDArray[Any]) -> None:
    """Numbers that are none have no largest one: whatever label was told of them would be made up."""
    if np.isnan(scores).any():
        has = "has numbers that are NaN, or that make NaN under its activation; no label can be told of them"
        raise TypeError(f"output {output.takes!r} {has}")


def _sized(output: LabelOutput | SpelledOutput, array: NDArray[Any], dimensions: int) -> NDArray[Any]:
    if array.ndim > dimensions and prod(array.shape[dimensions:]) == 1:  # what pooling over a picture leaves
        array = array.reshape(array.shape[:dimensions])
    if array.ndim != dimensions or array.shape[-1] != len(output.labels):
        shape = [*["any"] * (dimensions - 1), len(output.labels)]
        raise TypeError(f"output {output.takes!r} has shape {list(array.shape)}; its labels are for {shape}")
    return array


def _texts(texts: Sequence[Any], shape: tuple[int, ...]) -> Tensor:
    array = np.empty(shape, object)
    array[...] = np.array(texts, object).reshape(shape)
    return Tensor(element_type=ElementType.STRING, shape=shape, array=array)


def _expect(source: TensorInfo, dimensions: int, labels: int | None) -> None:
    """That an output has a number of dimensions, and the last one as many numbers as there are labels."""
    if source.shape is None:
        return
    shape = source.shape[:dimensions] if set(source.shape[dimensions:]) == {1} and labels else source.shape
    last = shape[-1] if shape else ""
    if len(shape) != dimensions or (labels is not None and isinstance(last, int) and last != labels):
        many = "" if labels is None else f", and the last one as many as there are labels, {labels}"
        must = f"{dimensions} dimensions{many}"
        raise ValueError(f"takes output {source.name!r} of shape {list(source.shape)}; it must have {must}")
