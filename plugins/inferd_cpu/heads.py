"""Classification heads of encoders: what makes scores of a hidden state."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, Pooling, RankHead
from inferd_weights.model_file import ModelFile, Tensor

Floats = NDArray[np.float32]
Read = Callable[[str], Floats | None]
HeadLayer = tuple[Floats | None, Floats | None, Literal["", "tanh", "gelu"]]
GGUF_TENSORS: Final = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")
_RANK: Final = 4  # pooling_type of a GGUF file


def read_tensors(file: ModelFile, tensors: Mapping[str, Tensor]) -> Read:
    """Reads a tensor of a file as numbers; None where it is not there."""

    def read(name: str) -> Floats | None:
        tensor = tensors.get(name)
        if tensor is None:
            return None
        numbers: Floats = tensor.format.decode(ModelFile.blocks(file, tensor)).reshape(tensor.shape)
        return numbers

    return read


def is_ranked(number: Any) -> bool:
    """Whether a GGUF file's pooling_type asks for scores."""
    return bool(number == _RANK)


def make_head(
    where: str,
    layers: list[HeadLayer],
    *,
    width: int,
    pooling: Pooling = Pooling.FIRST,
    norm: tuple[Floats, Floats | None] | None = None,
    epsilon: float = 1e-5,
) -> RankHead:
    """A head of the layers that there are.

    Raises:
        LoadError: There is none, or one does not take what the one before gives.
    """
    found = [(matrix, bias, activation) for matrix, bias, activation in layers if matrix is not None]
    for matrix, bias, _ in found:
        if matrix.ndim != 2 or matrix.shape[1] != width or (bias is not None and bias.shape != matrix.shape[:1]):  # noqa: PLR2004 - outputs, inputs
            raise LoadError(
                f"{where}: a matrix of the head has shape {list(matrix.shape)}; it must take {width} numbers"
            )
        width = matrix.shape[0]
    if not found:
        raise LoadError(f"{where}: scores are asked for, but there is no head that gives some")
    return RankHead(pooling=pooling, layers=tuple(found), norm=norm, epsilon=epsilon)


def read_gguf_head(where: str, read: Read, *, width: int) -> RankHead:
    """The head of a GGUF file: a matrix and tanh, if it has that, and the last one."""
    weight, bias, *last = (read(name) for name in GGUF_TENSORS)
    if last[0] is None:  # one matrix alone is the last
        return make_head(where, [(weight, bias, "")], width=width)
    return make_head(where, [(weight, bias, "tanh"), (last[0], last[1], "")], width=width)


def read_hf_head(where: str, read: Read, config: Mapping[str, Any], *, width: int) -> RankHead:
    """The head of a folder, as the classes of transformers name its parts.

    Raises:
        LoadError: Also for a pooling that is not known.
    """
    if read("classifier.out_proj.weight") is not None:  # RoBERTa and its like
        dense: HeadLayer = (read("classifier.dense.weight"), read("classifier.dense.bias"), "tanh")
        return make_head(
            where, [dense, (read("classifier.out_proj.weight"), read("classifier.out_proj.bias"), "")], width=width
        )
    last: HeadLayer = (read("classifier.weight"), read("classifier.bias"), "")
    if read("head.dense.weight") is not None:  # ModernBERT
        poolings = {"cls": Pooling.FIRST, "mean": Pooling.MEAN}
        named = config.get("classifier_pooling", "cls")
        if named not in poolings or config.get("classifier_activation", "gelu") != "gelu":
            raise LoadError(f"{where}: the head pools by {named!r} or has another activation than gelu")
        norm = read("head.norm.weight")
        return make_head(
            where,
            [(read("head.dense.weight"), read("head.dense.bias"), "gelu"), last],
            width=width,
            pooling=poolings[named],
            norm=None if norm is None else (norm, read("head.norm.bias")),
            epsilon=float(config.get("norm_eps", 1e-5)),
        )
    pooler: HeadLayer = (read("bert.pooler.dense.weight"), read("bert.pooler.dense.bias"), "tanh")
    return make_head(where, [pooler, last], width=width)
