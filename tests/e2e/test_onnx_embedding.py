"""Embeddings and scores of ONNX encoders through everything: kernel, worker, engine, runtime and client."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'inferd[torch]'")

import bert_to_onnx  # noqa: E402 - behind the checks that its libraries are there
import tiny_rankers  # noqa: E402 - as above

from inferd.testing.kernel import KernelProcess, kernel_process  # noqa: E402 - as above
from inferd_client import AsyncClient, Client  # noqa: E402 - as above
from inferd_client.errors import PromptTooLongError, UnsupportedInputError  # noqa: E402 - as above

pytestmark = [pytest.mark.e2e, pytest.mark.model]
TEXTS = ("A cat sits on the mat.", "Kernel", "The quick brown fox jumps over the lazy dog, twice and again.")
DOCUMENTS = ("the rain makes it wet", "it is", "the grass", "when sun")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that has the backend, whether or not its entry point is installed."""
    environment = {"INFERD_BACKENDS": "[]", "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=environment) as process:
        yield process


async def test_texts_as_vectors(kernel: KernelProcess, minilm: Path, tmp_path: Path) -> None:
    """MiniLM as a graph in its folder embeds texts as transformers does, many at once; a text too long is refused."""
    shutil.copytree(minilm, tmp_path / "minilm", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "minilm" / "onnx").mkdir()  # where sentence-transformers puts it
    bert_to_onnx.convert(minilm, tmp_path / "minilm" / "onnx" / "model.onnx", gives="last_hidden_state", types=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    network = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager").eval()
    expected = []
    for text in TEXTS:
        with torch.inference_mode():
            mean = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    async with AsyncClient(kernel.address) as client:
        await client.create_model("minilm", source=str(tmp_path / "minilm"))
        found = await asyncio.gather(*(client.embed("minilm", text) for text in TEXTS * 8))
        np.testing.assert_allclose(found, expected * 8, atol=1e-4)
        with pytest.raises(PromptTooLongError, match="512"):
            await client.embed("minilm", "cat " * 600)
        with pytest.raises(UnsupportedInputError, match="tensors"):
            await client.infer("minilm", {"input_ids": np.array([[101, 102]])})


def test_documents_in_the_order_of_their_scores(kernel: KernelProcess, tmp_path: Path) -> None:
    """A classifier's graph ranks as the network does; a pooling that it does not have is refused by its field."""
    folder = tmp_path / "ranker"
    network = tiny_rankers.write("bert", folder)
    bert_to_onnx.convert(folder, folder / "model.onnx", gives="logits", types=True)
    (folder / "model.safetensors").unlink()
    public = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    scores = []
    for document in DOCUMENTS:
        given = public("who makes wet", document, return_tensors="pt", return_token_type_ids=True)
        with torch.inference_mode():
            scores.append(float(network(given["input_ids"], token_type_ids=given["token_type_ids"]).logits))
    order = sorted(range(len(DOCUMENTS)), key=lambda index: -scores[index])
    with Client(kernel.address) as client:
        client.create_model("ranker", source=str(folder))
        ranked = client.rerank("ranker", "who makes wet", DOCUMENTS)
        assert [each.index for each in ranked] == order
        assert [each.score for each in ranked] == pytest.approx([scores[index] for index in order], abs=1e-4)
        with pytest.raises(UnsupportedInputError, match="not by MEAN"):
            client.embed("ranker", "the rain", mean=True)
