"""Downloads and the room on the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from inferd.cli import download as download_module
from inferd.cli.download import MARGIN_BYTES, download, open_part
from inferd.cli.output import CommandError

CHUNK = bytes(4096)
FREE_BYTES = 40 * len(CHUNK)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which little is free, and ever less: the part file of a download takes of it."""

    def use(folder: Path) -> SimpleNamespace:
        taken_bytes = sum(path.stat().st_size for path in folder.iterdir())
        return SimpleNamespace(free=MARGIN_BYTES + FREE_BYTES - taken_bytes)

    monkeypatch.setattr(shutil, "disk_usage", use)
    monkeypatch.setattr(download_module, "CHECK_BYTES", 4 * len(CHUNK))


class Endless(httpx.SyncByteStream):
    """A body of 12 MB, which counts what was taken of it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for self.taken in range(1, 3000):
            yield CHUNK


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("headers", [{}, {"Content-Length": str(len(CHUNK))}], ids=["no length", "a false one"])
def test_what_never_ends_does_not_fill_the_disk(tmp_path: Path, headers: dict[str, str]) -> None:
    """What comes without a length, or is longer than it said, ends with both numbers when what is free runs out."""
    body = Endless()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=body))
    with httpx.Client(transport=transport) as client, open_part(tmp_path / "x.part") as part:
        with pytest.raises(CommandError, match="make room") as caught:
            download(client, "https://host/x", part, sha256="", meter=lambda *_: None)
        assert caught.value.reason == "DISK_FULL"
        assert part.size_bytes <= FREE_BYTES + download_module.CHECK_BYTES  # which is less than what is left free
    assert body.taken < 100
