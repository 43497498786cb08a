"""How numbers of 4 bits lie in words, by those who write folders, and in what our products read.

Ours: each output has its inputs in order, in runs of `RUN`; of `WIDTH` inputs in a row word number r holds input r of
each of the 8 runs, the first in its lowest bits. So a product reads a word once and has numbers of 8 runs of it, each
run under one scale. Behind the last input there are zeros up to a whole `WIDTH`.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

RUN = 32
PLACES = 8  # numbers in a word
WIDTH = RUN * PLACES
PASS = 1 << 22  # numbers that are put at a time
# Of AutoAWQ: the outputs of a word are 0, 2, 4, 6, 1, 3, 5, 7 from its lowest bits on; so output n is in these places.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def unpack_words(words: Tensor) -> Tensor:
    """Numbers in the order of bits: int32 (…, W) -> uint8 (…, 8 W)."""
    halves = words.contiguous().view(torch.uint8)
    return torch.stack((halves & 15, halves >> 4), dim=-1).flatten(-2)


def unpack_awq(words: Tensor) -> Tensor:
    """As `unpack_words`, in the order of AutoAWQ."""
    numbers = unpack_words(words).view(*words.shape, PLACES)
    placed: Tensor = numbers[..., torch.tensor(AWQ_PLACES)].flatten(-2)
    return placed


def pack_runs(numbers: Tensor) -> Tensor:
    """Our words of numbers: uint8 (N, K) -> int32 (N, K / 8), with K up to a whole `WIDTH`."""
    count, inputs = numbers.shape
    padded = pad(numbers, (0, -inputs % WIDTH)).view(count, -1, PLACES // 2, 2, RUN)
    halves = padded[:, :, :, 0] | (padded[:, :, :, 1] << 4)
    return halves.transpose(2, 3).contiguous().view(torch.int32).flatten(1)


def unpack_runs(words: Tensor) -> Tensor:
    """The way back: int32 (N, W) -> uint8 (N, 8 W)."""
    halves = words.view(torch.uint8).view(len(words), -1, RUN, PLACES // 2).transpose(2, 3)
    return torch.stack((halves & 15, halves >> 4), dim=3).flatten(1)


def pack(method: str, words: Tensor, inputs: int, outputs: int, order: Tensor | None) -> Tensor:
    """Our words of somebody else's, some outputs at a time.

    Args:
        method: Whose they are, as in `schemes.py`.
        words: As they are stored.
        inputs: Numbers of an output.
        outputs: How many there are.
        order: Which input comes when, shape (inputs,); None for theirs.
    """
    made, rows = [], max(PLACES, PASS // inputs // PLACES * PLACES)
    for first in range(0, outputs, rows):
        last = min(first + rows, outputs)
        if method == "gptq":
            numbers = unpack_words(words[:, first:last].T)
        elif method == "awq":
            numbers = unpack_awq(words[:, first // PLACES : last // PLACES]).T
        else:
            numbers = unpack_words(words[first:last])[:, :inputs]
        made.append(pack_runs(numbers if order is None else numbers[:, order]))
    return torch.cat(made)


def read_zeros(method: str, words: Tensor, offset: int) -> Tensor:
    """Zero points as uint8 (outputs, groups)."""
    if method == "compressed-tensors":
        return unpack_words(words.T).T.contiguous()
    numbers = unpack_words(words) if method == "gptq" else unpack_awq(words)
    return ((numbers + offset) & 15).T.contiguous()
