"""Files of projectors as llama.cpp has them (mmproj): a tower that sees, and what a decoder is given of that."""

from collections.abc import Collection, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_cpu.vision.shape import KINDS, Kind, expect_tensors, out_axis, read_shape
from inferd_weights.gguf import GgufFile
from inferd_weights.metadata import Metadata

Floats = NDArray[np.float32]
ARCHITECTURE: Final = "clip"
_SWAPPED: Final = (".ffn_up.", ".ffn_down.")


class Projector:
    """A file of a projector, checked; `weights` reads its weights.

    Args:
        path: The file.
        out_width: Numbers of a hidden state of the decoder that it is for.

    Attributes:
        path: See above.
        shape: Its sizes.
        floats: Numbers of all its weights.

    Raises:
        LoadError: It is no projector, contradicts itself, or is for another decoder.
    """

    def __init__(self, path: Path, *, out_width: int) -> None:
        self.path = path
        self._file = GgufFile(path)
        kind = _read_kind(path, self._file.metadata)
        self.shape = read_shape(path, self._file.metadata, kind, out_width)
        self._shapes = dict(expect_tensors(self.shape))
        self._swaps = self._find_swap()
        self._check_tensors()
        self.floats = sum(prod(shape) for shape in self._shapes.values())

    def _check_tensors(self) -> None:
        tensors = self._file.tensors
        for name, shape in self._shapes.items():
            tensor = tensors.get(self._stored(name))
            if tensor is None:
                raise LoadError(f"{self.path}: tensor {name!r} of shape {list(shape)} is missing")
            if tensor.shape == shape:
                continue
            axis = out_axis(name)
            if axis is not None and len(tensor.shape) == len(shape) and tensor.shape[1 - axis] == shape[1 - axis]:
                raise LoadError(
                    f"{self.path}: gives vectors of {tensor.shape[axis]} numbers, and the model takes {shape[axis]}: it"
                    " is the projector of another model"
                )
            raise LoadError(
                f"{self.path}: tensor {name!r} has shape {list(tensor.shape)}; the metadata says {list(shape)}"
            )
        if more := tensors.keys() - self._shapes.keys():
            raise LoadError(
                f"{self.path}: {len(more)} tensors, {min(more)!r} among them, have no place in a projector of the kind"
                f" {self.shape.kind!r}: without them the results would be wrong"
            )

    def _find_swap(self) -> bool:
        """Whether what goes up is called down in all layers, and down up, as in files of older converters."""
        tensor = self._file.tensors.get("v.blk.0.ffn_down.weight")
        up, down = self._shapes["v.blk.0.ffn_up.weight"], self._shapes["v.blk.0.ffn_down.weight"]
        return tensor is not None and up != down and tensor.shape == up

    def _stored(self, name: str) -> str:
        """As what the file has a weight."""
        up, down = _SWAPPED
        if not self._swaps:
            return name
        return name.replace(up, down) if up in name else name.replace(down, up)

    @property
    def weights(self) -> "ProjectorWeights":
        """All weights, by their names in the file; each is read when it is asked for."""
        return ProjectorWeights(self, self._shapes)

    def read(self, name: str) -> Floats:
        """A weight in fp32.

        Raises:
            LoadError: It is not a finite number.
        """
        tensor = self._file.tensors[self._stored(name)]
        with np.errstate(invalid="ignore", over="ignore"):  # told below
            numbers = tensor.format.decode(self._file.blocks(tensor)).reshape(tensor.shape)
        self._file.release(tensor)
        if not np.isfinite(numbers).all():
            raise LoadError(
                f"{self.path}: tensor {name!r} ({tensor.format.name}, at byte {tensor.offset}) has weights that are not"
                " finite: the file is corrupt; fetch it again"
            )
        return np.ascontiguousarray(numbers, np.float32)


class ProjectorWeights(Mapping[str, Floats]):
    """The weights of a projector; each is read anew whenever it is asked for, so that not all are held at once.

    Args:
        projector: The file.
        names: Of its weights.
    """

    def __init__(self, projector: Projector, names: Collection[str]) -> None:
        self._projector = projector
        self._names = names

    def __getitem__(self, name: str) -> Floats:
        """See `Projector.read`.

        Raises:
            LoadError: As it does.
        """
        return self._projector.read(name)

    def __iter__(self) -> Iterator[str]:
        """Names of weights."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


def _read_kind(path: Path, metadata: Metadata) -> Kind:
    architecture = metadata.text("general.architecture", "")
    if architecture != ARCHITECTURE:
        kind = metadata.text("general.type", "model")
        what = f"of the type {kind!r}" if kind != "model" else f"a model of architecture {architecture!r}"
        raise LoadError(
            f"{path}: setting 'projector' names a file {what}; it wants what the model sees with, a file whose"
            f" architecture is {ARCHITECTURE!r} (mmproj)"
        )
    if not metadata.flag("clip.has_vision_encoder", default=False):
        raise LoadError(f"{path}: this projector does not see ('clip.has_vision_encoder' is not true)")
    key = "clip.projector_type" if "clip.projector_type" in metadata else "clip.vision.projector_type"
    kind = metadata.text(key, "")
    for known in KINDS:
        if kind == known:
            return known
    raise UnsupportedModelError(f"{path}: metadata {key!r} is {kind!r}; projectors that are known: {', '.join(KINDS)}")
