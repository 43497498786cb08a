"""Writes docs/models.md: which architectures of GGUF files, and which types of folders, each backend takes.

    make models-table

A tiny network of each is written as a file and as a folder, and each backend is asked what it would take to load it: it
reads all but the weights, and sends a token through the network where it does so before a load.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from encoder_to_gguf import ENCODERS, SIZES, write_encoder
from network_to_gguf import make_network, write_network
from tiny_families import FAMILIES as TINY
from tiny_family import WINDOW, TinyFamily
from tiny_folders import save
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd_cpu.backend import CpuBackend
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_types import TYPES, WRAPPED
from inferd_cpu.plugin import SPEC as CPU
from inferd_cpu.supported import is_compiled
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC as ONNX
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import GGUF_ARCHITECTURES
from inferd_torch.plugin import SPEC as TORCH

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
BACKENDS: Final[Mapping[str, tuple[Callable[[], Any], Any]]] = {
    "cpu": (CpuBackend, CPU),
    "onnx": (OnnxBackend, ONNX),
    "torch": (TorchBackend, TORCH),
}
NO: Final = "-"
SOME: Final = "some"
PLAIN: Final = {
    "plain llama": TinyFamily(architecture="llama", model_type="llama", permuted=True),
    "plain gemma3": TinyFamily(
        architecture="gemma3",
        model_type="gemma3_text",
        config={"head_dim": 16, "sliding_window": WINDOW, "tie_word_embeddings": True},
        metadata={"attention.sliding_window": WINDOW, "rope.freq_base": 1000000.0},
    ),
}
"""Beside the networks of tests, which have more than most models of these."""

BERTS: Final[Mapping[str, dict[str, Any]]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "nomic_bert": {},
    **{kind: settings for name, (kind, settings, _) in ENCODERS.items() if name != "gemma-embedding"},
}
UNWRITTEN: Final = {"bert", "nomic-bert", "minicpm"}
"""Files that no network here is written as: of these the backend `cpu` says itself that it reads them."""

Rows = dict[str, dict[str, str]]

TEXT: Final = """# Which models run

Made by `make models-table`, which asks each backend about a tiny network of every kind; do not edit it.
`inferd models --supported` prints what the installed backends say of themselves.

Of the backend `cpu`, "compiled" is the native library and "numpy" the reference in fp32, which is several times slower.
The backend `torch` computes folders of more types than these: of every decoder in transformers whose attention can be
replaced by ours. The backend `onnx` also runs [graphs](model-settings.md) of any kind. What llama.cpp takes and this
does not, and which tensors are lacking, prints
[`compare_with_llama_cpp.py`](../tests/reference/compare_with_llama_cpp.py).
How an architecture is added, tells [architectures.md](architectures.md).

## GGUF files

The names are those of `general.architecture`. "some" are files that have no more than transformers reads of them.

"""
MIDDLE: Final = """
## Hugging Face folders

The names are those of `model_type` in `config.json`; weights are safetensors.

"""

PICTURES = """
Pictures are seen by the backend `torch`: `idefics3`, `smolvlm`, `qwen2_5_vl` and `gemma3` (`--backend torch`), and of
GGUF files with their `projector` by `cpu` ([docs/pictures.md](pictures.md)). Of models of texts and pictures in folders
`cpu` takes the text: {wrapped}.
"""


def ask(path: Path) -> Iterator[tuple[str, bool]]:
    """The backends, and whether each would load a model."""
    for name, (backend, spec) in BACKENDS.items():
        given = {} if name == "torch" else {"kv_tokens": "1024"}
        request = LoadRequest(path=path, device="cpu:0", settings=read_settings(spec, given), capacity_bytes=1 << 32)
        try:
            backend().measure(request)
        except LoadError:
            yield name, False
        else:
            yield name, True


def describe(name: str, family: str, *, takes: bool) -> str:
    """A cell of the table."""
    if not takes:
        return NO
    return "yes" if name != "cpu" else "compiled" if is_compiled(FAMILIES[family]) else "numpy"


def note(rows: Rows, name: str, family: str, path: Path) -> None:
    """Ask all backends; of several networks of a name each is taken that any of them shows to be."""
    row = rows.setdefault(name, dict.fromkeys(BACKENDS, NO))
    for backend, takes in ask(path):
        if takes:
            row[backend] = describe(backend, family, takes=True)
        elif backend == "torch" and path.is_file() and family in GGUF_ARCHITECTURES and row[backend] == NO:
            row[backend] = SOME


def find_files(folder: Path) -> Rows:
    """By architecture what each backend says of its files."""
    rows: Rows = {name: dict.fromkeys(BACKENDS, NO) | {"cpu": describe("cpu", name, takes=True)} for name in UNWRITTEN}
    path = folder / "tiny.gguf"
    for name in ENCODERS:
        write_encoder(name, path)
        note(rows, name, name, path)
    TINY.update(PLAIN)
    try:
        for name in list(TINY):
            write_network(name, path)
            note(rows, TINY[name].architecture, TINY[name].architecture, path)
    finally:
        for name in PLAIN:
            del TINY[name]
    return rows


def find_folders(folder: Path) -> Rows:
    """By type what each backend says of its folders."""
    rows: Rows = {"minicpm": dict.fromkeys(BACKENDS, NO) | {"cpu": describe("cpu", "minicpm", takes=True)}}
    path = folder / "folder"
    for family in (*TINY.values(), *PLAIN.values()):
        if family.model_type in TYPES:
            save(make_network(family, 0.3), path)
            note(rows, family.model_type, TYPES[family.model_type].architecture, path)
            shutil.rmtree(path)
    for kind, settings in BERTS.items():
        config = AutoConfig.for_model(kind, **(SIZES | settings))
        save(AutoModel.from_config(config, dtype=torch.float32), path)
        note(rows, kind, TYPES[kind].architecture, path)
        shutil.rmtree(path)
    return rows


def write_table(rows: Rows, first: tuple[str, ...], cells: Callable[[str], tuple[str, ...]]) -> str:
    """A table of what backends say, by name."""
    head = (*first, *BACKENDS)
    lines = [head, *[("---",) * len(head)], *((*cells(name), *rows[name].values()) for name in sorted(rows))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write() -> str:
    """The page."""
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as made:
        files, folders = find_files(Path(made)), find_folders(Path(made))
    of_files = write_table(files, ("architecture",), lambda name: (name,))
    of_folders = write_table(folders, ("type", "architecture"), lambda name: (name, TYPES[name].architecture))
    wrapped = ", ".join(f"`{name}`" for name in WRAPPED)
    return TEXT + of_files + MIDDLE + of_folders + PICTURES.format(wrapped=wrapped)


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
