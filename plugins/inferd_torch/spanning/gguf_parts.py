"""A rank's part of the weights of a GGUF file, decoded when transformers asks for them: its rows, or its columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gguf import ReaderTensor, dequantize
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from inferd_torch.artifact import Artifact
from inferd_torch.gguf import Reader, quick_reading
from inferd_torch.spanning.parts import Part
from inferd_torch.spanning.share import Share

Floats = NDArray[np.floating[Any]]
ROWS = 256  # that are decoded at once where a part of their columns is kept


@contextmanager
def gguf_parts(artifact: Artifact, share: Share, rank: int, skeleton: Any) -> Iterator[dict[str, Part]]:
    """The weights of a file by their names in transformers, of each a rank's part.

    Args:
        artifact: The file.
        share: What a rank holds.
        rank: Which.
        skeleton: Of the network of a rank, whose weights are named.
    """
    reader = Reader(artifact.path)
    architecture = str(artifact.metadata.get("general.architecture", ""))
    # What this turns back, queries and keys of the llama kind, is within each head: a rank's heads are turned alike.
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=share.config.to_dict())
    with quick_reading():
        names = get_gguf_hf_weights_map(skeleton, processor)
    parts = {}
    for tensor in reader.tensors:
        if (name := names.get(tensor.name)) is not None:
            whole = Decoded(tensor, processor)
            parts[name] = Part(whole, share.part(name, whole.shape, rank))
    yield parts


class Decoded:
    """A weight of the file: slices of it are decoded, and what llama.cpp's conversion has done to it is undone.

    Args:
        tensor: Of the file.
        processor: What transformers undoes that with.

    Attributes:
        shape: Of the whole, as outputs and inputs.
    """

    def __init__(self, tensor: ReaderTensor, processor: TensorProcessor) -> None:
        self.shape = [int(size) for size in reversed(tensor.shape)]
        self._tensor = tensor
        self._processor = processor

    def __getitem__(self, place: tuple[slice, ...]) -> Tensor:
        rows, *columns = place
        stored = self._tensor.data[rows]
        if columns:
            parts = [self._decode(stored[first : first + ROWS])[:, columns[0]] for first in range(0, len(stored), ROWS)]
            weights = np.concatenate(parts)
        else:
            weights = self._decode(stored)
        return torch.from_numpy(np.array(self._processor.process(weights, self._tensor.name).weights))

    def _decode(self, stored: NDArray[Any]) -> Floats:
        decoded: Floats = dequantize(stored, self._tensor.tensor_type)
        return decoded
