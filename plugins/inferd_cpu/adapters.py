"""Adapters (LoRA, arXiv:2106.09685): products of two thin matrices that are added to weights as they are loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_folder import HfFolder, rename
from inferd_cpu.hf_types import TYPES
from inferd_cpu.shapes import Architecture, DeltaNet
from inferd_cpu.weights import order_halves
from inferd_weights.adapter_files import WEIGHTS, Pair, read_gguf_adapter, read_peft
from inferd_weights.model_file import ModelFile, Tensor
from inferd_weights.quants import FORMATS
from inferd_weights.row_orders import PAIRED

Floats = NDArray[np.float32]
_MIXED: Final = ("falcon", "starcoder")  # queries, keys and values of a group of heads may be together


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to a tensor of shape (outputs, inputs): `up` (outputs, rank) times `down` (rank, inputs)."""

    down: Floats
    up: Floats


class AdaptedFile(ModelFile):
    """A model file of which some tensors are changed; these are in fp32 then, whatever they are stored in.

    Attributes:
        file: As it is without that.
    """

    def __init__(self, file: ModelFile, changes: Mapping[str, Change]) -> None:
        self.path, self.metadata = file.path, file.metadata
        self.file, self._changes = file, changes
        self.tensors = {
            name: replace(tensor, format=FORMATS[0]) if name in changes else tensor
            for name, tensor in file.tensors.items()
        }

    def blocks(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored blocks of a tensor, shape (blocks, block bytes); of a changed one its numbers."""
        change = self._changes.get(tensor.name)
        if change is None:
            return self.file.blocks(tensor)
        stored = self.file.tensors[tensor.name]
        numbers = stored.format.decode(self.file.blocks(stored)).reshape(tensor.shape) + change.up @ change.down
        return np.ascontiguousarray(numbers, np.float32).view(np.uint8).reshape(-1, 4)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took."""
        self.file.release(self.file.tensors[tensor.name])


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter is for.

    Attributes:
        path: Where the model is.
        architecture: Its shape.
        shapes: Of its tensors, by their names in GGUF.
        in_file_order: Whether their rows are as in GGUF files.
    """

    path: Path
    architecture: Architecture
    shapes: Mapping[str, tuple[int, ...]]
    in_file_order: bool


def base_of(file: ModelFile, a: Architecture) -> Base:
    """A model, for adapters."""
    inner = file.file if isinstance(file, AdaptedFile) else file
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    return Base(file.path, a, shapes, not isinstance(inner, HfFolder))


def adapt(file: ModelFile, a: Architecture, path: Path, scale: float) -> ModelFile:
    """The file with an adapter, a GGUF file or a folder of the `peft` package, times `scale`.

    Raises:
        LoadError: It cannot be read, is for another model, or does more than adding to matrices.
    """
    if not path.is_absolute():
        raise LoadError(f"{path}: setting 'adapter' must be an absolute path: it is read by another process")
    return AdaptedFile(file, read_changes(base_of(file, a), path, scale))


def read_changes(base: Base, path: Path, scale: float = 1.0, *, most_rank: int | None = None) -> dict[str, Change]:
    """What an adapter adds to tensors of a model, rows and columns in the order of its file.

    Raises:
        LoadError: As `adapt`.
    """
    a, folder = base.architecture, path.is_dir()
    if folder:
        pairs = _rename(path, a, read_peft(path, most_rank=most_rank))
    else:
        pairs = read_gguf_adapter(path, a.name, most_rank=most_rank)
    changes: dict[str, Change] = {}
    for name, (down, up, factor) in pairs.items():
        known = base.shapes.get(name)
        shape = (up.shape[0], down.shape[1])
        if known is None or name == "token_embd.weight" or known != shape or up.shape[1] != down.shape[0]:
            found = "has none" if known is None else f"has {list(known)}"
            raise LoadError(
                f"{path}: changes {name!r} by matrices of shapes {list(up.shape)} and {list(down.shape)}; {base.path}"
                f" {found}: the adapter is for another model, or for a part that cannot be changed"
            )
        columns, rows = _reorder(a, name, down, up, not folder, base.in_file_order)
        changes[name] = Change(columns, rows * np.float32(scale * factor))
    return changes


def _rename(path: Path, a: Architecture, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """What a folder of the `peft` package adds, by the names of GGUF."""
    known = next((each for each in TYPES.values() if each.architecture == a.name), None)
    if known is None:
        raise UnsupportedModelError(f"{path}: adapters of peft are not supported for {a.name!r}; convert it to GGUF")
    renamed = {}
    for module, pair in pairs.items():
        name = rename(known, f"{module}.weight")
        if a.name in _MIXED and name.endswith(".attn_qkv.weight"):
            raise UnsupportedModelError(
                f"{path / WEIGHTS}: changes {module!r}, whose heads folders of {a.name!r} may have in another order"
                " than they are loaded in; convert the adapter to GGUF"
            )
        renamed[name] = pair
    return renamed


def _reorder(  # noqa: PLR0917 - of one change
    a: Architecture,
    name: str,
    down: Floats,
    up: Floats,
    given: bool,  # noqa: FBT001 - as GGUF
    wanted: bool,  # noqa: FBT001
) -> tuple[Floats, Floats]:
    """Both matrices in the order of the file: some GGUF files have other orders of rows or columns than folders."""
    part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if given == wanted or part is None or int(part[1]) >= len(a.layers):
        return down, up
    layer, delta = a.layers[int(part[1])], a.delta
    if delta is not None and layer.recurrent and FAMILIES[a.name].delta == "tiled":
        if part[2] == "ssm_out":
            return _turn(down.T, _order_tiles(delta, delta.value_width, 0), back=given).T, up
        width = {"attn_qkv": delta.value_width, "attn_gate": delta.value_width, "ssm_beta": 1, "ssm_alpha": 1}
        if part[2] in width:
            before = 2 * delta.keys_width if part[2] == "attn_qkv" else 0
            return down, _turn(up, _order_tiles(delta, width[part[2]], before), back=given)
    if a.name in PAIRED and part[2] in ("attn_q", "attn_k"):
        return down, _turn(up, order_halves(layer.key_width, a.ropes[0].width, len(up)), back=not given)
    return down, up


def _turn(rows: Floats, order: NDArray[np.intp], *, back: bool) -> Floats:
    """The rows in this order, or, `back`, those that are in it as they were before."""
    if not back:
        return rows[order]
    turned = np.empty_like(rows)
    turned[order] = rows
    return turned


def _order_tiles(delta: DeltaNet, width: int, before: int) -> NDArray[np.intp]:
    """Rows of value heads, `width` of each, behind `before` others: grouped in folders by key head, tiled in files."""
    heads = np.arange(delta.value_heads).reshape(delta.key_heads, -1).T.reshape(-1)
    rows = (heads[:, None] * width + np.arange(width)).reshape(-1)
    return np.concatenate([np.arange(before), before + rows])
