"""What is of one kind of model: how it prepares a picture, what stands for it in a prompt, and which vectors it gives.

Pictures are prepared by the image processor of transformers for the kind, with the numbers of the model's folder.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

import numpy as np
import torch
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from inferd.plugin.pictures import Outline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from inferd.plugin.session import UInt8Array

MOST_RATIO: Final = 200  # of the sides of a picture


TILES: Final = 4  # that are computed at a time


class Kind(Protocol):
    """Of one model. Its methods but `vectors` are called from several threads.

    Attributes:
        placeholder: See `PictureReader`.
        token_id: See there.
        whole: Whether the tokens of a picture see each other.
        rotates: Whether positions go by the grid of a picture.
    """

    placeholder: str
    token_id: int
    whole: ClassVar[bool]
    rotates: ClassVar[bool]

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        ...

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """See `PictureReader`."""
        ...

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """The vectors of a picture, shape (tokens, width); `values` are what `read` gave, on the network's device."""
        ...


class Idefics3:
    """Idefics3 and SmolVLM: tiles of one size and the whole picture once more (arXiv:2408.12637, arXiv:2504.05299)."""

    whole: ClassVar = False
    rotates: ClassVar = False

    def __init__(self, config: Any, processor: Any) -> None:
        self.placeholder = "<image>"
        self.token_id = int(config.image_token_id)
        self._processor = processor
        vision = config.vision_config
        self._tile_tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2

    @classmethod
    def open(cls, folder: Path, config: Any) -> Self:
        """Of a folder; raises whatever its files cause."""
        return cls(config, Idefics3ImageProcessorPil.from_pretrained(folder, local_files_only=True))

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        rows, columns = self._tiles(high, wide)
        tile = "<image>" * self._tile_tokens
        around, side = "<fake_token_around_image>", int(self._processor.max_image_size["longest_edge"])
        whole = f"{around}<global-img>{tile}{around}"
        if rows:
            lines = [
                "".join(f"{around}<row_{row + 1}_col_{column + 1}>{tile}" for column in range(columns)) + "\n"
                for row in range(rows)
            ]
            whole = "".join(lines) + "\n" + whole
        tiles = rows * columns + 1
        return Outline(text=whole, tokens=tiles * self._tile_tokens, pixels=tiles * side * side)

    def _tiles(self, high: int, wide: int) -> tuple[int, int]:
        """Rows and columns of tiles besides the whole picture; none where it is one tile."""
        given = self._processor
        if not given.do_image_splitting:
            return 0, 0
        if given.do_resize:
            blank = np.broadcast_to(np.uint8(0), (3, high, wide))
            high, wide = get_resize_output_image_size(blank, resolution_max_side=given.size["longest_edge"])
        side = given.max_image_size["longest_edge"]
        ratio = wide / high
        if wide >= high:
            wide = math.ceil(wide / side) * side
            high = math.ceil(int(wide / ratio) / side) * side
        else:
            high = math.ceil(high / side) * side
            wide = math.ceil(int(high * ratio) / side) * side
        return (high // side, wide // side) if max(high, wide) > side else (0, 0)

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """See `PictureReader`."""
        given = self._processor(images=[pixels], input_data_format="channels_last", return_tensors="np")
        read = {"pixel_values": given["pixel_values"]}
        if (mask := given.get("pixel_attention_mask")) is not None:
            read["pixel_attention_mask"] = mask.astype(np.bool_)  # of 8 bytes for each pixel
        return read

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """See `Kind`; a few tiles at a time, which see nothing of each other."""
        given = []
        for begin in range(0, values["pixel_values"].shape[1], TILES):
            some = {name: value[:, begin : begin + TILES] for name, value in values.items()}
            given += network.get_image_features(**some).pooler_output
        return torch.cat(given)


class Qwen25:
    """Qwen2.5-VL: patches of a picture near its own size, positions by rows and columns (arXiv:2502.13923)."""

    whole: ClassVar = False
    rotates: ClassVar = True

    def __init__(self, config: Any, processor: Any) -> None:
        self.placeholder = "<|image_pad|>"
        self.token_id = int(config.image_token_id)
        self._processor = processor
        self._side = processor.patch_size * processor.merge_size

    @classmethod
    def open(cls, folder: Path, config: Any) -> Self:
        """Of a folder; raises whatever its files cause."""
        return cls(config, Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True))

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        given = self._processor
        if max(high, wide) > MOST_RATIO * min(high, wide):
            raise ValueError(f"has {wide} x {high} pixels; one side may be {MOST_RATIO} times the other at most")
        if given.do_resize:
            sizes = {"min_pixels": given.size["shortest_edge"], "max_pixels": given.size["longest_edge"]}
            high, wide = smart_resize(high, wide, factor=self._side, **sizes)
        grid = high // self._side, wide // self._side
        tokens = math.prod(grid)
        return Outline(text=self.placeholder * tokens, tokens=tokens, pixels=high * wide, grid=grid)

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """See `PictureReader`."""
        given = self._processor(images=[pixels], input_data_format="channels_last", return_tensors="np")
        return {name: given[name] for name in ("pixel_values", "image_grid_thw")}

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """See `Kind`."""
        return torch.cat(list(network.get_image_features(**values).pooler_output))


class Gemma3:
    """Gemma 3: one square of a picture, whose tokens see each other (arXiv:2503.19786)."""

    whole: ClassVar = True
    rotates: ClassVar = False

    def __init__(self, config: Any, processor: Any) -> None:
        self.placeholder = "<start_of_image>"
        self.token_id = int(config.image_token_id)
        self._processor = processor
        self._tokens = int(config.mm_tokens_per_image)

    @classmethod
    def open(cls, folder: Path, config: Any) -> Self:
        """Of a folder; raises whatever its files cause."""
        return cls(config, Gemma3ImageProcessorPil.from_pretrained(folder, local_files_only=True))

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`; the sizes of a picture do not matter."""
        del high, wide
        size = self._processor.size
        text = f"\n\n<start_of_image>{'<image_soft_token>' * self._tokens}<end_of_image>\n\n"
        return Outline(text=text, tokens=self._tokens, pixels=size["height"] * size["width"])

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """See `PictureReader`."""
        given = self._processor(
            images=[pixels], input_data_format="channels_last", return_tensors="np", do_pan_and_scan=False
        )
        return {"pixel_values": given["pixel_values"]}

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """See `Kind`."""
        return network.get_image_features(**values).pooler_output.flatten(0, 1)  # type: ignore[no-any-return]


KINDS: Final[Mapping[str, type[Idefics3 | Qwen25 | Gemma3]]] = {
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "qwen2_5_vl": Qwen25,
    "gemma3": Gemma3,
}
"""By the `model_type` of a folder's config.json."""
