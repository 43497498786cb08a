"""Whose the folder is in which an agent keeps files of models."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from inferd.agent.folders import own_folder
from inferd.errors import InvalidFieldError


def test_a_folder_of_models_is_one_agents(tmp_path: Path) -> None:
    """A second agent is refused with who has it and what helps, unless there may be more; and has it afterwards."""
    with own_folder(tmp_path / "data", most=1) as first:
        assert first == tmp_path / "data" / "hosted"
        with (
            pytest.raises(InvalidFieldError, match=f"pid {os.getpid()}.*INFERD_DATA_DIR.*CACHE_FOLDERS=2") as caught,
            own_folder(tmp_path / "data", most=1),
        ):
            pass
        assert caught.value.field == "data_dir"
        with own_folder(tmp_path / "data", most=2) as second:
            assert second == tmp_path / "data" / "hosted-2"
    with own_folder(tmp_path / "data", most=1) as again:
        assert again == first


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """By its path and the setting that names another one."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InvalidFieldError, match=r"cannot be kept in .*INFERD_DATA_DIR"), ExitStack() as stack:
        stack.enter_context(own_folder(tmp_path / "data", most=1))
