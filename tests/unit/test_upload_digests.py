"""What names a part of an upload in fingerprints."""

import hashlib
from typing import Any

import pytest

from inferd.runtime.front import uploads
from inferd.runtime.front.uploads import Upload

DATA = bytes(range(256)) * 64


def received(data: bytes, chunk_bytes: int) -> Upload:
    """An upload that came in such chunks."""
    upload = Upload(len(data))
    for start in range(0, len(data), chunk_bytes):
        upload.add(data[start : start + chunk_bytes])
    return upload


def test_a_part_is_named_by_its_upload_and_its_place() -> None:
    """The same part of uploads of the same bytes has one name, in whatever chunks they came; another one another."""
    alike, places = (received(DATA, 1000), received(DATA, len(DATA))), ((0, 256), (256, 256), (0, 257))
    names = [[upload.digest(upload.part(*place)) for place in places] for upload in alike]
    assert names[0] == names[1]
    assert len(set(names[0])) == 3
    other = received(DATA[:-1] + b"x", 1000)
    assert other.digest(other.part(0, 256)) not in names[0]


def test_bytes_are_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts are named, each byte is hashed once, as it comes."""
    hashed, sha256 = [], hashlib.sha256

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._digest = sha256()
            self.update(data)

        def update(self, data: bytes) -> None:
            hashed.append(len(data))
            self._digest.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._digest, name)

    monkeypatch.setattr(uploads, "sha256", Counted)
    upload = received(DATA, 1000)
    assert len({upload.digest(upload.part(start, len(DATA) - 256)) for start in range(256)}) == 256
    assert len(DATA) <= sum(hashed) < len(DATA) + 256 * 100
