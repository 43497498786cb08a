"""The processor's name, read from a made-up `/proc` and from this host."""

import os
from pathlib import Path

import pytest

from inferd_cpu.host import read_processor


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [("processor\t: 0\nmodel name\t: Model 7\n", "Model 7"), ("processor\t: 0\n", os.uname().machine)],
    ids=["named", "nameless"],
)
def test_the_name_of_a_processor(tmp_path: Path, cpuinfo: str, name: str) -> None:
    """A processor is called by its model name; one that gives none, by its machine type."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert read_processor(tmp_path) == name


def test_this_host() -> None:
    """On a real host the processor has a name."""
    assert read_processor()
