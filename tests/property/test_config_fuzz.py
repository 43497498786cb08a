"""A slice of `make fuzz`: damaged configurations of models of a repository."""

from pathlib import Path

from config_fuzz import fuzz

COUNT = 300


def test_damaged_configurations(tmp_path: Path) -> None:
    """Each of some hundred is served or refused with an error that names its field."""
    found = fuzz(tmp_path, range(COUNT))
    assert found.total() == COUNT
    assert found["served"] > 0
    assert found["config"] > 0
    assert len(found) > 9
