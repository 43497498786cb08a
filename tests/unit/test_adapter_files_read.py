"""Files of adapters: what is read of a folder that changes meanwhile, and how large they may be."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from inferd.config import Settings
from inferd.errors import PermissionDeniedError
from inferd.runtime.adapters import read_files
from inferd.runtime.sources import Roots
from inferd.shared import can_share

NAMES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.mark.skipif(not can_share(), reason="the system has no memory that is shared")
def test_a_link_that_came_after_the_look_leads_nobody_out(tmp_path: Path) -> None:
    """What is opened must lie within the roots, by whatever links of a file or of its folder it was reached."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "adapter", outside):
        folder.mkdir(parents=True)
        for name in NAMES:
            (folder / name).write_text("{}")
    roots = Roots(folders=(root,))
    read_files(root / "adapter", most_bytes=100, roots=roots)
    (root / "same").symlink_to(root / "adapter")
    read_files(root / "same", most_bytes=100, roots=roots)
    (root / "folder").symlink_to(outside)
    (root / "adapter" / NAMES[1]).unlink()
    (root / "adapter" / NAMES[1]).symlink_to(outside / NAMES[1])
    for path in (root / "adapter", root / "folder"):
        read_files(path, most_bytes=100)
        with pytest.raises(PermissionDeniedError, match="is not in a folder that callers may name files of"):
            read_files(path, most_bytes=100, roots=roots)


def test_files_of_an_adapter_fit_a_frame() -> None:
    """A size that is set above what goes with a frame is refused with both; the default gives way."""
    with pytest.raises(ValidationError, match=r"adapters.file_bytes is 2097152 and hosts.memory_bytes is 1048576"):
        Settings(adapters={"file_bytes": 2 << 20}, hosts={"memory_bytes": 1 << 20})
    settings = Settings(hosts={"memory_bytes": 1 << 20})
    assert settings.adapters.within(settings.hosts.memory_bytes).file_bytes == 1 << 20
