"""What a look at a model's file may take, and that nothing of that stays."""

import os
import resource

import pytest

from inferd.plugin import LoadError
from inferd.worker.looking import bounded_look
from inferd_api.worker.v1 import load_pb2

KINDS = (resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)


def load(device: str = "fake:0", capacity_bytes: int = 1) -> load_pb2.Load:
    look = load_pb2.LookLimits(memory_bytes=64 << 20, cpu_s=1000, descriptors=200)
    limits = load_pb2.EngineLimits(look=look)
    return load_pb2.Load(path="/m", device=device, capacity_bytes=capacity_bytes, limits=limits)


def limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(kind) for kind in KINDS]


def test_limits_are_as_they_were_afterwards() -> None:
    """Within the block there are lower soft ones, no core among them, and behind it those of before."""
    before = limits()
    with bounded_look(load()):
        bounded = limits()
    assert limits() == before
    assert [hard for _, hard in bounded] == [hard for _, hard in before]
    assert bounded[2][0] == 200
    assert bounded[3][0] in (0, 1)


def test_a_look_takes_no_more_of_the_processor_than_there_is() -> None:
    """On the processor the bound is what inferd may give, where that is less; on others it is the setting's."""
    with bounded_look(load()):
        assert len(bytearray(32 << 20)) == 32 << 20
    with pytest.raises(LoadError, match=r"memory than it may, 16777216 bytes"), bounded_look(load("cpu:0", 16 << 20)):
        bytearray(200 << 20)  # more than a process gives itself out of what it had before


def test_other_failures_stay_what_they_are() -> None:
    """An error of the system that is no lack of descriptors is not taken for one."""
    with pytest.raises(FileNotFoundError), bounded_look(load()):
        os.stat("/no/such/file")  # noqa: PTH116 - the error itself is what counts
