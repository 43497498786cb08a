"""When two workers compute the same KV blocks of the same tokens."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inferd.plugin import KvLayout, LoadRequest, TokenLimits
from inferd.worker.identity import Identity

LAYOUT = KvLayout(form="bf16", block_bytes=64, sizes=frozenset({"threads"}))
LOADER = "plugin:Backend"
FIRST, OTHER = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two files, an adapter, and something else beside them."""
    (tmp_path / "models").mkdir()
    for name in (FIRST, OTHER, "n-00001-of-00002.gguf"):
        (tmp_path / "models" / name).write_bytes(b"weights")
    (tmp_path / "adapter").write_bytes(b"adapter")
    return tmp_path


def request(folder: Path, path: str = f"models/{FIRST}", **settings: int | str) -> LoadRequest:
    chosen = {"adapter": str(folder / "adapter"), "threads": 2, "kv": "bf16", **settings}
    return LoadRequest(path=folder / path, device="cpu:0", settings=chosen, capacity_bytes=1)


def key(load: LoadRequest, *, loader: str = LOADER, layout: KvLayout = LAYOUT, block_tokens: int = 16) -> bytes:
    limits = TokenLimits(
        vocabulary_size=260,
        context_tokens=64,
        block_tokens=block_tokens,
        blocks=64,
        max_sequences=1,
        max_step_tokens=64,
    )
    return Identity(load, loader).key(layout, limits)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda _: None, True),
        (lambda folder: (folder / "models" / "n-00001-of-00002.gguf").write_bytes(b"other"), True),
        (lambda folder: (folder / "models" / FIRST).write_bytes(b"weighty"), False),
        (lambda folder: (folder / "models" / OTHER).write_bytes(b"more weights"), False),
        (lambda folder: os.utime(folder / "models" / OTHER, (1, 1)), False),
        (lambda folder: (folder / "adapter").write_bytes(b"adapted"), False),
        (lambda folder: (folder / "adapter").unlink(), False),
    ],
)
def test_files_decide(folder: Path, change: Callable[[Path], object], *, same: bool) -> None:
    """A change of a file of the model or of one that a setting names makes another key; of others beside them none."""
    before = key(request(folder))
    change(folder)
    assert (key(request(folder)) == before) is same


def test_settings_and_layouts_decide(folder: Path) -> None:
    """So do settings that are no sizes, the backend, the size of blocks and the layout; a name of the same file not."""
    first = key(request(folder))
    assert key(request(folder, threads=3)) == first
    others = [
        key(request(folder, kv="i8")),
        key(request(folder), loader="plugin:Other"),
        key(request(folder), block_tokens=32),
        key(request(folder), layout=replace(LAYOUT, form="f32")),
        key(request(folder), layout=replace(LAYOUT, window_block_bytes=8)),
    ]
    assert len({first, *others}) == 1 + len(others)
    (folder / "link").symlink_to(folder / "models")
    assert key(request(folder, f"link/{FIRST}")) == first


def test_a_folder_is_all_its_files(folder: Path) -> None:
    """Of a model in a folder each file counts, in folders of it, too."""
    (folder / "models" / "deep").mkdir()
    before = key(request(folder, "models"))
    (folder / "models" / "deep" / "config.json").write_text("{}")
    assert before != key(request(folder, "models"))
