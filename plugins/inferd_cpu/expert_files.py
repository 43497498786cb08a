"""Experts of a layer that are tensors of their own, as in older GGUF files, seen as one."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_weights.model_file import ModelFile, Tensor

_EXPERT: Final = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d{1,6})\.weight")


class StackedFile(ModelFile):
    """A file whose experts are seen as one tensor for each matrix of a layer."""

    def __init__(self, file: ModelFile, experts: Mapping[str, list[Tensor]]) -> None:
        self.path, self.metadata = file.path, file.metadata
        self._file, self._experts = file, experts
        taken = {part.name for parts in experts.values() for part in parts}
        self.tensors = {name: tensor for name, tensor in file.tensors.items() if name not in taken} | {
            name: Tensor(name=name, shape=(len(parts), *parts[0].shape), format=parts[0].format, offset=parts[0].offset)
            for name, parts in experts.items()
        }

    def blocks(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored blocks of a tensor, shape (blocks, block bytes); of experts a copy, one behind the other."""
        parts = self._parts(tensor)
        if len(parts) == 1:
            return self._file.blocks(parts[0])
        return np.concatenate([self._file.blocks(part) for part in parts])

    def shares(self, tensor: Tensor, count: int) -> Iterator[NDArray[np.uint8]]:
        """The stored blocks of a tensor in so many equal shares; those of single experts are not copied."""
        parts = self._parts(tensor)
        if count != len(parts):
            yield from super().shares(tensor, count)
            return
        for part in parts:
            yield self._file.blocks(part)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took."""
        for part in self._parts(tensor):
            self._file.release(part)

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        return self._experts.get(tensor.name) or [self._file.tensors[tensor.name]]


def stack_experts(file: ModelFile) -> ModelFile:
    """The file with its experts stacked, or itself where they are so already.

    Raises:
        LoadError: Experts of a layer are missing or differ, or are there in both ways.
    """
    found: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in file.tensors.items():
        if (match := _EXPERT.fullmatch(name)) is not None:
            found[f"{match[1]}_exps.weight"][int(match[2])] = tensor
    experts = {}
    for name, parts in found.items():
        experts[name] = order_experts(file.path, name, parts)
        if name in file.tensors:
            raise LoadError(f"{file.path}: there is {name!r} and {experts[name][0].name!r}, which is a part of it")
    return StackedFile(file, experts) if experts else file


def order_experts(path: Path, name: str, parts: Mapping[int, Tensor]) -> list[Tensor]:
    """The experts that are to be one tensor, by their numbers.

    Raises:
        LoadError: Some are missing or differ.
    """
    ordered = [parts[number] for number in sorted(parts)]
    first = ordered[0]
    if sorted(parts) != list(range(len(parts))):
        raise LoadError(f"{path}: of {name!r} there are experts {sorted(parts)}; none may be missing")
    wrong = next((each for each in ordered if (each.shape, each.format) != (first.shape, first.format)), None)
    if wrong is not None:
        raise LoadError(
            f"{path}: tensor {wrong.name!r} is {wrong.format.name} of shape {list(wrong.shape)}, and"
            f" {first.name!r} {first.format.name} of shape {list(first.shape)}; experts of a layer must be alike"
        )
    return ordered
