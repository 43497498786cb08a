"""The digest of what a model's files hold."""

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inferd.content import content_digest
from inferd.core.ids import DeviceId, ModelName
from inferd.core.model import ModelSpec
from inferd.runtime import digests as module
from inferd.runtime.digests import Digests

SPEC = ModelSpec(
    name=ModelName("m"), source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="",
    loader="x:Y", devices=(DeviceId("cpu:0"),),
)  # fmt: skip


def test_a_file_has_the_digest_that_sha256sum_writes(tmp_path: Path) -> None:
    """Whatever its name; what has been read is told up to the whole."""
    (tmp_path / "m.gguf").write_bytes(bytes(range(256)) * 10_000)
    told: list[float] = []
    found = content_digest(tmp_path / "m.gguf", told.append)
    assert found == "sha256:" + hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()
    assert (told == sorted(told), len(told), told[-1]) == (True, 3, 1.0)


def test_several_files_have_the_digest_of_what_sha256sum_writes_of_them(tmp_path: Path) -> None:
    """Of a folder with those in it, and of the parts of a split file; a name that differs makes another digest."""
    folder = tmp_path / "m"
    (folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "onnx/model.onnx"):
        (folder / name).write_text(name)
    written = subprocess.run(
        [shutil.which("sha256sum") or "", "m/config.json", "m/onnx/model.onnx"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    assert content_digest(folder) == "sha256:" + hashlib.sha256(written).hexdigest()
    parts = [tmp_path / f"s-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in parts:
        part.write_text(part.name)
    assert content_digest(parts[0]) == content_digest(parts[1]) != content_digest(folder)
    (folder / "config.json").rename(folder / "other.json")
    assert content_digest(folder) != "sha256:" + hashlib.sha256(written).hexdigest()


async def test_a_digest_is_found_once_for_files_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the loop, when it is asked for; the next kernel knows it, and files that have changed have none."""
    read: list[Path] = []

    def count(path: Path, _: object) -> str:
        read.append(path)
        return f"sha256:{len(read)}"

    monkeypatch.setattr(module, "content_digest", count)
    known = asyncio.Event()
    first = Digests(tmp_path / "digests.json", lambda _: known.set())
    spec = replace(SPEC, file_version="v1")
    assert (first.known(spec), first.fraction(spec)) == ("", 0.0)
    first.ask(spec)
    first.ask(spec)
    await known.wait()
    assert (first.known(spec), first.fraction(spec), read) == ("sha256:1", 1.0, [Path("/m")])
    await first.close()
    second = Digests(tmp_path / "digests.json", lambda _: None)
    assert second.known(spec) == "sha256:1"
    assert not second.known(replace(spec, file_version="v2"))
    await second.close()


async def test_a_file_that_is_being_read_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left where it is, and not known."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def read(_: Path, tell: Callable[[float], None]) -> str:
        while True:
            tell(0.5)
            loop.call_soon_threadsafe(begun.set)

    monkeypatch.setattr(module, "content_digest", read)
    digests = Digests(tmp_path / "digests.json", lambda _: None)
    spec = replace(SPEC, file_version="v1")
    digests.ask(spec)
    await begun.wait()
    assert digests.fraction(spec) == 0.5
    await digests.close()
    assert not digests.known(spec)
