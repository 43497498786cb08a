"""What rank 0 tells the others: a few words as JSON, and arrays of whole numbers as their bytes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from inferd.plugin import LoadRequest, TokenBatch

ARRAYS = ("token_ids", "positions", "starts", "lengths", "block_tables", "logit_rows", "hidden_rows")
"""Of a batch, those that decide what the ranks compute; rank 0 alone chooses tokens."""


def write_request(request: LoadRequest) -> dict[str, Any]:
    """What is loaded, for the other ranks."""
    written: dict[str, Any] = json.loads(json.dumps(asdict(request), default=str))
    return {"do": "load", "request": written}


def read_request(message: dict[str, Any], rank: int) -> LoadRequest:
    """What one of them is to load, on its device."""
    given = message["request"]
    ranks = tuple(given["ranks"])
    return LoadRequest(**{**given, "path": Path(given["path"]), "ranks": ranks, "device": ranks[rank]})


def write_batch(batch: TokenBatch) -> tuple[dict[str, Any], bytes]:
    """A step, and the numbers of its arrays, one after the other."""
    arrays = {
        name: np.ascontiguousarray(array, np.int32) for name in ARRAYS if (array := getattr(batch, name)) is not None
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    return {"do": "step", "shapes": shapes}, b"".join([array.tobytes() for array in arrays.values()])


def read_batch(message: dict[str, Any], data: bytes) -> TokenBatch:
    """The step that was told."""
    numbers, begin = np.frombuffer(data, np.int32).copy(), 0
    arrays: dict[str, Any] = {}
    for name, shape in message["shapes"].items():
        end = begin + int(np.prod(shape, dtype=np.int64))
        arrays[name] = numbers[begin:end].reshape(shape)
        begin = end
    return TokenBatch(**arrays)
