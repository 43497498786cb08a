"""What is said to be supported, against what is."""

import json
from pathlib import Path

import compare_with_llama_cpp
import gguf
import pytest
from native_products import HALVED_FP4
from typer.testing import CliRunner

from inferd.cli import main
from inferd.cli.plan import explain
from inferd_api.v1.model_pb2 import MemoryNeed
from inferd_api.v1.model_service_pb2 import LoadPlan
from inferd_cpu.families import FAMILIES
from inferd_cpu.native import LIBRARY, Native
from inferd_cpu.native_weights import TYPES, W8
from inferd_cpu.supported import NUMBERS, describe, is_compiled
from inferd_torch.plugin import GGUF_ARCHITECTURES
from inferd_weights.quants import FORMATS


def test_the_command_lists_what_backends_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inferd models --supported` shows each kind and its names for the backends that are installed."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    result = CliRunner().invoke(main.app, ["models", "--supported", "-o", "json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["cpu"] == {kind: list(names) for kind, names in describe().items()}
    table = CliRunner().invoke(main.app, ["models", "--supported"])
    assert table.exit_code == 0
    assert "GGUF architectures, compiled" in " ".join(table.output.split())


def test_formats_are_those_that_are_decoded() -> None:
    """The list that needs no numpy has the names of the decoders."""
    assert sorted(NUMBERS) == sorted(form.name for form in FORMATS.values())


def test_every_architecture_is_in_one_list() -> None:
    """Compiled or with numpy; the names are those of llama.cpp's converter."""
    kinds = describe()
    listed = [*kinds["GGUF architectures, compiled"], *kinds["GGUF architectures, with numpy"]]
    assert sorted(listed) == sorted(FAMILIES)
    assert set(listed) <= set(gguf.MODEL_ARCH_NAMES.values())


def test_the_comparison_with_llama_cpp_names_every_architecture() -> None:
    """Each architecture of the converter is compiled, computed with numpy or not taken, as the families say."""
    rows = dict(compare_with_llama_cpp.rows())
    assert [rows[name] for name in ("gemma3", "gpt-oss", "lfm2", "mamba")] == ["compiled", "compiled", "numpy", "no"]
    assert {name for name, state in rows.items() if state != "no"} == set(FAMILIES)
    assert all((state == "compiled") == is_compiled(FAMILIES[name]) for name, state in rows.items() if state != "no")


def test_the_comparison_says_what_is_lacking() -> None:
    """Of what is not taken it names the tensors that nothing here has, and the formats without weights in them."""
    lacking = compare_with_llama_cpp.lacking()
    assert "ssm_d" in lacking["mamba"]
    assert lacking["falcon-h1"] == ["ssm_d"]
    assert not lacking.keys() & FAMILIES.keys()
    assert {"I64", "Q8_K"} <= set(compare_with_llama_cpp.formats())
    assert not {form.name for form in FORMATS.values()} & set(compare_with_llama_cpp.formats())
    table = compare_with_llama_cpp.write()
    assert "| gemma3 | compiled |  |" in table
    assert "| mamba | no | " in table


def test_the_readme_names_the_command() -> None:
    """README says how to see the table."""
    assert "inferd models --supported" in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_files_that_the_torch_backend_names_are_read_by_transformers() -> None:
    """Each architecture that it lists is one of those that the installed transformers reads from GGUF files."""
    public = pytest.importorskip("transformers.modeling_gguf_pytorch_utils").GGUF_SUPPORTED_ARCHITECTURES
    assert {name.replace("-", "") for name in GGUF_ARCHITECTURES} <= {name.replace("_", "") for name in public}


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
def test_how_many_bits_weights_have_in_memory() -> None:
    """The formats that the document says to have 4 bits in memory, with one scale or two, do so in the library."""
    library = Native("auto").library
    packed = {name: library.inferd_natural_weight(number) for name, number in TYPES.items()}
    four = [name for name, weight in packed.items() if weight != W8]
    halved = [name for name in four if packed[name] >= HALVED_FP4]
    text = (Path(__file__).parents[2] / "docs/model-settings.md").read_text(encoding="utf-8")
    assert f"| {', '.join(sorted(set(four) - set(halved)))} | 4 bits: " in text
    assert f"| {', '.join(sorted(halved))} | 4 bits, and two scales: " in text


def test_a_plan_tells_how_far_weights_grow() -> None:
    """Where weights take more in memory than in the file, both sizes are told; else neither."""
    found = LoadPlan(need=MemoryNeed(weights_bytes=183_000_000))
    assert "weights: 46 MB in the file become 183 MB in memory" in explain(found, file_bytes=46_000_000)
    for file_bytes in (0, 180_000_000):
        assert not [line for line in explain(found, file_bytes=file_bytes) if line.startswith("weights:")]
