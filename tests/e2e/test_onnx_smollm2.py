"""A real language model through everything: kernel, worker, engine, ONNX Runtime and client."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import AsyncClient, Client, Grammar
from inferd_client.errors import ModelLoadError

pytestmark = [pytest.mark.e2e, pytest.mark.model]
QUESTION = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that has the backend, whether or not its entry point is installed."""
    environment = {"INFERD_BACKENDS": '["cpu"]', "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=environment) as process:
        yield process


async def test_smollm2_answers_many_at_once(kernel: KernelProcess, smollm2: Path) -> None:
    """A GGUF file by name of the backend: right answers, the same together as alone, a grammar kept, a prefix found."""
    async with AsyncClient(kernel.address) as client:
        model = await client.create_model("small", source=str(smollm2), backend="onnx", settings={"kv_tokens": "4096"})
        assert model.backend == "onnx"
        alone = await client.generate("small", QUESTION, temperature=0.0, max_tokens=12)
        assert "Paris" in alone.text
        together = await asyncio.gather(
            *(client.generate("small", QUESTION, temperature=0.0, max_tokens=12) for _ in range(6)),
            client.generate("small", QUESTION, max_tokens=8, grammar=Grammar(regex="Rome|Paris")),
        )
        assert {answer.text for answer in together[:6]} == {alone.text}
        assert together[6].text in ("Rome", "Paris")
        assert max(answer.usage.cached_tokens for answer in together[:6]) > 0


def test_another_architecture_names_who_runs_it(kernel: KernelProcess, gemma3: Path) -> None:
    """A file of another architecture is refused with its name and the backends that are there for it."""
    with Client(kernel.address) as client:
        client.create_model("gemma", source=str(gemma3), backend="onnx")
        with pytest.raises(ModelLoadError, match=r"'gemma3' is not supported by the backend 'onnx'.*: cpu") as caught:
            client.generate("gemma", "Hello", max_tokens=1)
        assert "cpu" in caught.value.metadata["backends"]
