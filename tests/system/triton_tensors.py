"""Tensors that the examples for Triton's client give and expect; knows nothing of inferd."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as tc
import tritonclient.utils.shared_memory as shm
from tritonclient import utils

TIMEOUT_S = 60
VALUES = [11, 7, 5, 3, 2, 0, 1]
ROW = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)


def given(name: str, array: Any, kind: str = "") -> Any:
    tensor = tc.InferInput(name, list(array.shape), kind or utils.np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def pair() -> list[Any]:
    return [given("INPUT0", ROW), given("INPUT1", ONES)]


def wanted(*names: str) -> list[Any]:
    return [tc.InferRequestedOutput(name) for name in names]


def texts(array: Any) -> Any:
    return np.array([str(each).encode() for each in array.flat], object).reshape(array.shape)


def check(result: Any) -> None:
    assert (result.as_numpy("OUTPUT0") == ROW + ONES).all()
    assert (result.as_numpy("OUTPUT1") == ROW - ONES).all()


def check_texts(result: Any) -> None:
    for name, numbers in (("OUTPUT0", ROW + ONES), ("OUTPUT1", ROW - ONES)):
        assert [int(each) for each in result.as_numpy(name).flat] == list(numbers.flat)


@contextmanager
def shared(name: str, key: str, size: int) -> Iterator[Any]:
    """A region of shared memory, which is gone behind the block."""
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        yield handle
    finally:
        shm.destroy_shared_memory_region(handle)


def failing(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        call(*arguments, **named)
    except utils.InferenceServerException as error:
        return error
    raise AssertionError("it did not fail")
