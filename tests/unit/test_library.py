"""The library of pulled models on disk."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from inferd.errors import InvalidFieldError
from inferd.runtime.library import Library, Manifest

WEIGHTS = b"GGUF and so on"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "data")


def manifest(name: str = "smollm2", **other: Any) -> Manifest:
    facts = {
        "source": "file:/x.gguf",
        "file": "x.gguf",
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "size_bytes": len(WEIGHTS),
    }
    return Manifest(name=name, **{**facts, **other})


def weights(tmp_path: Path) -> Path:
    file = tmp_path / "download.part"
    file.write_bytes(WEIGHTS)
    return file


def test_what_is_added_is_found(library: Library, tmp_path: Path) -> None:
    """A model that was added is found by name, with its file, backend and settings, and the file has moved."""
    added = manifest(backend="cpu", settings={"context_tokens": "512"})
    path = library.add(added, weights(tmp_path))
    assert library.find("smollm2") == added
    assert library.path(added) == path
    assert path.read_bytes() == WEIGHTS
    assert not (tmp_path / "download.part").exists()


def test_an_empty_library_has_no_models(library: Library) -> None:
    """Reading makes no folder and finds nothing."""
    assert (library.manifests(), library.broken(), library.find("x")) == ((), (), None)
    assert not library.root.exists()


NAMES = [
    "a",
    "org/model:7b-q4.1",
    "..",
    ".",
    ".hidden",
    "/etc/passwd",
    "../../x",
    "a/../b",
    "x" * 128,
    "/" * 128,
    "/.x",
]


def test_every_name_has_a_folder_of_its_own_inside_the_library(library: Library, tmp_path: Path) -> None:
    """No allowed name leaves the library's folder or shares a folder with another; all are listed by name."""
    for name in NAMES:
        path = library.add(manifest(name), weights(tmp_path))
        assert path.resolve().parent.parent == library.root.resolve()
    assert [found.name for found in library.manifests()] == sorted(NAMES)


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\x00", "naïve", "a=b", "~x", "a\n"])
def test_other_names_are_refused(library: Library, name: str) -> None:
    """A name outside the alphabet or the length of names is a typed error."""
    with pytest.raises(InvalidFieldError, match="1 to 128"):
        library.find(name)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ({"file": "../smollm2/x.gguf"}, "beside the manifest"),
        ({"file": ".."}, "beside the manifest"),
        ({"file": ""}, "beside the manifest"),
        ({"file": "manifest.json"}, "beside the manifest"),
        ({"file": "a\x00"}, "null"),
        ({"size_bytes": 99}, "has 14 bytes; the manifest says 99"),
        ({"size_bytes": "14"}, "'size_bytes' is '14'"),
        ({"size_bytes": True}, "'size_bytes' is True"),
        ({"settings": {"context_tokens": 5}}, "values must be text"),
        ({"name": "other"}, "belongs into"),
        ({"name": "a b"}, "1 to 128"),
        ({"source": None}, "'source' is None"),
        ({"file": "gone.gguf"}, "gone.gguf is missing"),
    ],
)
def test_a_broken_manifest_is_reported_and_hides_no_other(
    library: Library, tmp_path: Path, spoil: dict[str, Any], why: str
) -> None:
    """A manifest that does not fit its file or its folder is listed with the reason; the others stay usable."""
    library.add(manifest("good"), weights(tmp_path))
    library.add(manifest(), weights(tmp_path))
    path = library.root / "smollm2" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | spoil))
    (broken,) = library.broken()
    assert broken.path == path
    assert why in broken.why
    assert [found.name for found in library.manifests()] == ["good"]
    assert library.find("smollm2") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\xff", "[" * 60_000, "[" * 70_000])
def test_rubbish_is_reported(library: Library, text: str) -> None:
    """A manifest that is no JSON object of the right form, or far too large, is listed and raises nothing."""
    folder = library.root / "x"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert len(library.broken()) == 1
    assert library.manifests() == ()


def test_a_download_that_never_got_its_manifest_is_reported(library: Library) -> None:
    """A folder without a manifest is what a crash in the middle of `add` leaves: listed, with what is missing."""
    (library.root / "half").mkdir(parents=True)
    (broken,) = library.broken()
    assert "manifest.json is missing" in broken.why


def test_adding_mends_a_broken_model(library: Library, tmp_path: Path) -> None:
    """Adding a model whose folder is broken makes it whole."""
    path = library.add(manifest(), weights(tmp_path))
    path.write_bytes(b"cut")
    assert library.find("smollm2") is None
    library.add(manifest(), weights(tmp_path))
    assert library.find("smollm2") == manifest()
    assert library.broken() == ()


def test_a_newer_manifest_is_still_read(library: Library, tmp_path: Path) -> None:
    """Keys that this version does not know are left alone."""
    library.add(manifest(), weights(tmp_path))
    path = library.root / "smollm2" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"licence": "Apache-2.0"}))
    assert library.find("smollm2") == manifest()


def test_a_folder_that_is_a_link_is_removed_as_a_whole(library: Library, tmp_path: Path) -> None:
    """Of a model whose folder is a link the link goes and what it leads to stays, whether that is there or not."""
    weights = tmp_path / "w"
    weights.write_bytes(b"GGUF")
    library.add(Manifest(name="m", source="file:///w", file="w", sha256="00", size_bytes=4), weights)
    folder, elsewhere = library.root / "m", tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert library.find("m") is not None
    library.check_removable("m")
    assert library.remove("m") == 0
    assert not folder.is_symlink()
    assert {path.name for path in elsewhere.iterdir()} == {"manifest.json", "w"}
    folder.symlink_to(tmp_path / "nowhere")
    assert library.remove("m") == 0
    assert library.remove("m") is None


def test_what_cannot_be_removed_is_told_before_anything_is_gone(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a folder of a model may not be changed, that is told by its path and nothing is removed."""
    weights = tmp_path / "w"
    weights.write_bytes(b"GGUF")
    library.add(Manifest(name="m", source="file:///w", file="w", sha256="00", size_bytes=4), weights)
    (library.root / "m" / "inner").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "inner" and allowed(path, mode))
    with pytest.raises(PermissionError, match="inner"):
        library.check_removable("m")
    assert library.find("m") is not None
