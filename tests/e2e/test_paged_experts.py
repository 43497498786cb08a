"""A kernel with a mixture whose experts are in a file: its plan, its answers, and what is left of the file."""

from pathlib import Path

import pytest
from native_models import find_missing

from inferd.cli.plan import explain
from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytest.importorskip("torch")
pytest.importorskip("transformers")
from tiny_networks import write_network

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(find_missing("auto")), reason="the native library is not built: make native"),
]
SIZES = {"kv_tokens": 256, "context_tokens": 128, "max_step_tokens": 64, "max_sequences": 2, "threads": 1}
PATIENT = {"INFERD_WORKERS__STOP_TIMEOUT_S": "60"}  # by force the kernel removes the file a little later


def find_files(folder: Path) -> list[Path]:
    """Files of experts, in the scratch of any worker."""
    return list(folder.rglob("experts-*.packed"))


def test_a_kernel_pages_experts(tmp_path: Path) -> None:
    """In its sandbox the worker answers as one with experts in memory; the plan tells the file's size, and it goes."""
    write_network("qwen3_moe", tmp_path / "m")
    source = str(tmp_path / "m")
    with kernel_process(tmp_path / "kernel", environment=PATIENT) as kernel, Client(kernel.address) as client:
        client.create_model("held", source=source, backend="cpu", settings=SIZES)
        client.create_model("paged", source=source, backend="cpu", settings={**SIZES, "expert_offload": True})
        held, paged = client.plan_load("held"), client.plan_load("paged")
        sizes = (paged.need.weights_bytes, paged.need.kv_bytes, paged.need.workspace_bytes)
        assert held.need.offloaded_bytes == sum(sizes)
        assert any(line.startswith("experts: ") and "workers.scratch_bytes" in line for line in explain(paged))
        assert "of experts are paged from a file" in paged.reason
        ids = [client.generate(name, "a tale", temperature=0.0, max_tokens=16).token_ids for name in ("held", "paged")]
        assert ids[0] == ids[1]
        (file,) = find_files(tmp_path)
        assert file.stat().st_size == paged.need.paged_bytes
        client.unload_model("paged")
        assert find_files(tmp_path) == []
