"""docs/models.md against what runs: all names, and of some models what the backends answer."""

from pathlib import Path

import pytest

from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_types import TYPES, WRAPPED
from inferd_cpu.supported import is_compiled

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
import what_runs
from network_to_gguf import make_network, write_network
from tiny_families import FAMILIES as TINY
from tiny_folders import save

PAGE = what_runs.PAGE.read_text(encoding="utf-8")
FILES, FOLDERS = (
    {cells[0]: cells[1:] for line in part.splitlines() if (cells := line.strip("| ").split(" | "))[1:]}
    for part in PAGE.split("## Hugging Face folders")
)
ASKED = ("qwen3", "gpt_oss", "deepseek_v2", "lfm2", "stablelm", "granitemoe")


def test_every_architecture_is_in_the_table() -> None:
    """With what computes it, compiled or numpy; a new one wants `make models-table`."""
    found = {name: cells[0] for name, cells in FILES.items() if name not in ("architecture", "---")}
    assert found == {name: "compiled" if is_compiled(family) else "numpy" for name, family in FAMILIES.items()}


def test_every_type_is_in_the_table() -> None:
    """With the architecture that it is of, and what computes that."""
    found = {name: tuple(cells[:2]) for name, cells in FOLDERS.items() if name not in ("type", "---")}
    states = {name: "compiled" if is_compiled(family) else "numpy" for name, family in FAMILIES.items()}
    assert found == {name: (known.architecture, states[known.architecture]) for name, known in TYPES.items()}
    assert all(f"`{name}`" in PAGE for name in WRAPPED)


@pytest.mark.parametrize("name", ASKED)
def test_the_backends_answer_what_the_table_says(tmp_path: Path, name: str) -> None:
    """Each is asked about a file and a folder of some models of all sorts."""
    family, rows = TINY[name], dict[str, dict[str, str]]()
    known = TYPES[family.model_type].architecture
    what_runs.note(rows, "folder", known, save(make_network(family, 0.3), tmp_path / "folder"))
    assert [*rows["folder"].values()] == FOLDERS[family.model_type][1:]
    write_network(name, tmp_path / "tiny.gguf")
    what_runs.note(rows, "file", family.architecture, tmp_path / "tiny.gguf")
    assert [*rows["file"].values()] == FILES[family.architecture]


def test_documents_lead_to_the_table() -> None:
    """README names it, and it names the script that compares with llama.cpp."""
    root = what_runs.PAGE.parents[1]
    assert "docs/models.md" in (root / "README.md").read_text(encoding="utf-8")
    assert "tests/reference/compare_with_llama_cpp.py" in PAGE
