"""Tokens that the native library chooses, against the engine's own sampler."""

import ctypes
from typing import Any

import numpy as np
import pytest

from inferd.engine.token.sampler import BAD_ROW, Sampler
from inferd.sampling import Sampling
from inferd_cpu.native import Native

ROWS, SIZE = 64, 5000
PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 100, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 5.0, "top_p": 0.99},
    {"temperature": 0.01, "top_k": 3, "min_p": 0.5},
]


@pytest.fixture
def native(isa: str) -> Native:
    return Native(isa)


def choose(native: Native, logits: np.ndarray[Any, Any], sampler: Sampler, positions: np.ndarray[Any, Any]) -> Any:
    sampling = sampler.for_device(positions)
    assert sampling is not None
    size = logits.shape[1]
    weights, order = np.empty(size, np.float32), np.empty(size, np.int32)
    return [
        native.library.inferd_choose_token(
            native.kernels,
            np.ascontiguousarray(row).ctypes.data_as(ctypes.c_void_p),
            size,
            float(sampling.temperatures[n]),
            int(sampling.top_k[n]),
            float(sampling.top_p[n]),
            float(sampling.min_p[n]),
            float(sampling.points[n]),
            weights.ctypes.data,
            order.ctypes.data,
        )
        for n, row in enumerate(logits)
    ]


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_tokens_are_those_of_the_engine(native: Native, spread: float) -> None:
    """On the same logits, flat or steep, with equal ones among them, the library and the engine choose the same."""
    rng = np.random.default_rng(1)
    sampler = Sampler(rows=ROWS, vocabulary_size=SIZE)
    for row in range(ROWS):
        sampler.assign(row, Sampling(seed=row, **PARAMETERS[row % len(PARAMETERS)]))
    differing = 0
    for step in range(10):
        logits = rng.normal(0, spread, (ROWS, SIZE)).astype(np.float32)
        logits[:, rng.integers(SIZE, size=400)] = logits[:, rng.integers(SIZE, size=400)]
        positions = np.full(ROWS, step, np.int32)
        differing += int(
            (np.array(choose(native, logits, sampler, positions)) != sampler.choose(logits, positions)).sum()
        )
    # A point that falls between two sums which differ in their last bit may go either way.
    assert differing <= 2


def test_a_row_that_is_not_finite_gets_no_token(native: Native) -> None:
    """NaN, infinity and a row of nothing give -1, wherever they are; a row with -inf among others gets its token."""
    sampler = Sampler(rows=2, vocabulary_size=40)
    sampler.assign(0, Sampling(temperature=0.0))
    sampler.assign(1, Sampling())
    positions = np.zeros(2, np.int32)
    for wrong in (np.nan, np.inf):
        for place in range(40):
            logits = np.zeros((2, 40), np.float32)
            logits[:, place] = wrong
            assert choose(native, logits, sampler, positions) == [BAD_ROW, BAD_ROW]
    assert choose(native, np.full((2, 40), -np.inf, np.float32), sampler, positions) == [BAD_ROW, BAD_ROW]
    logits = np.full((2, 40), -np.inf, np.float32)
    logits[:, 37] = -5
    assert choose(native, logits, sampler, positions) == [37, 37]
