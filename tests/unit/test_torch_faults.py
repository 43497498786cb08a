"""A device that fails for good, and one that only has too little memory."""

import logging
from contextlib import nullcontext

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import torch

from inferd_torch.faults import EXIT_CODE, ending, guard


def dead() -> None:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("error", "answers", "ends"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("cuBLAS has no such type"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory"), False, False),
        (ValueError("a batch"), True, False),
    ],
)
def test_an_error_that_stays_ends_the_process(
    caplog: pytest.LogCaptureFixture, error: Exception, *, answers: bool, ends: bool
) -> None:
    """The device's own errors end it, and others behind which it does not answer; too little memory does not."""
    left: list[int] = []
    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(type(error)),
        ending(nullcontext if answers else dead, left.append),
    ):
        raise error
    assert left == [EXIT_CODE] * ends
    assert ("the device has failed" in caplog.text) == ends


def test_a_processor_is_not_asked() -> None:
    """What a processor raises is passed on as it is; what computes on a GPU is guarded."""
    with pytest.raises(RuntimeError, match="as it is"), guard(torch.device("cpu"))():
        raise RuntimeError("as it is")
    assert not isinstance(guard(torch.device("cuda:0"))(), nullcontext)
