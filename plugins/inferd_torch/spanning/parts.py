"""A rank's part of the weights in files: what is not its own is not read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from safetensors import safe_open
from torch import Tensor

from inferd.plugin import list_hf_weights
from inferd_torch.artifact import Artifact
from inferd_torch.spanning.share import Share


class Part:
    """A part of a weight: what transformers asks for weights is given this one's.

    Args:
        whole: What reads the weight, or slices of it.
        place: Where in it the part lies.
    """

    def __init__(self, whole: Any, place: tuple[slice, ...]) -> None:
        self._whole = whole
        self._place = place

    def __getitem__(self, _: Any) -> Tensor:
        part: Tensor = self._whole[self._place]
        return part


@contextmanager
def folder_parts(artifact: Artifact, share: Share, rank: int) -> Iterator[dict[str, Part]]:
    """The weights of a folder by name, of each a rank's part; the files are open in this."""
    parts = {}
    with ExitStack() as stack:
        for file in list_hf_weights(artifact.path):
            tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                whole = tensors.get_slice(name)
                parts[name] = Part(whole, share.part(name, whole.get_shape(), rank))
        yield parts
