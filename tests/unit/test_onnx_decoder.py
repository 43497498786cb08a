"""Our graph of language models against transformers, and against what the native engine is held to."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import gguf
import greedy_ids
import network_to_gguf
import tiny_models
import tiny_networks
import torch

from inferd.plugin import LoadedModel, LoadError, LoadRequest, UnsupportedModelError
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC

REFERENCE = Path(tiny_models.__file__).with_name("smollm2_greedy.json")
SMALL = {"kv_tokens": "1024", "max_step_tokens": "256"}


def load(path: Path, **settings: str) -> LoadedModel:
    values = read_settings(SPEC, SMALL | settings)
    request = LoadRequest(path=path, device="cpu:0", settings=values, capacity_bytes=4 << 30)
    return OnnxBackend().load(request, lambda _: None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these wait for threads more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "smollm3"])
def test_a_gguf_file_gives_the_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    """Ten prompts in one step, and then a step a token, give the greedy tokens of the network that the file is of."""
    network = network_to_gguf.write_network(name, tmp_path / "tiny.gguf")
    session = load(tmp_path / "tiny.gguf", compute="exact").session
    expected = greedy_ids.generate_with_transformers(network)
    assert np.mean(greedy_ids.generate(session) == expected) >= 0.95
    assert len(np.unique(expected)) > 20


@pytest.mark.parametrize("how", [{"split_max_tensors": 7}, {"endianess": gguf.GGUFEndian.BIG}], ids=["shards", "big"])
def test_shards_and_big_endian_files_are_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """A model in several files, or in the other byte order, gives the logits of the one file, to the bit."""
    logits = []
    for folder, options in (("one", {}), ("other", how)):
        (tmp_path / folder).mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(network_to_gguf.gguf, "GGUFWriter", partial(gguf.GGUFWriter, **options))
            network_to_gguf.write_network("llama", tmp_path / folder / "tiny.gguf")
        session = load(min((tmp_path / folder).iterdir())).session
        logits.append(compute(session, Part(token_ids=range(5, 30), blocks=[5, 3]))[0].tobytes())
        session.close()
    assert logits[0] == logits[1]


@pytest.mark.parametrize(("name", "changes"), [("llama", {}), ("qwen2", {}), ("qwen3", {"head_dim": 32})])
def test_a_folder_gives_the_logits_of_transformers(name: str, changes: dict[str, int], tmp_path: Path) -> None:
    """A folder of safetensors gives the logits of its network, for a prompt and for a token behind it."""
    network = tiny_networks.write_network(name, tmp_path, **changes)
    session = load(tmp_path, compute="exact").session
    ids = np.random.default_rng(1).integers(tiny_networks.END, size=40).tolist()
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([ids])).logits[0].numpy()
    blocks = [5, 3, 9]
    logits = compute(session, Part(token_ids=ids[:-1], blocks=blocks), Part(token_ids=ids[:1], blocks=[1]))
    np.testing.assert_allclose(logits[0], expected[:-1], atol=2e-3)
    np.testing.assert_allclose(logits[1], expected[:1], atol=2e-3)
    (last,) = compute(session, Part(token_ids=ids[-1:], begin=len(ids) - 1, blocks=blocks))
    np.testing.assert_allclose(last, expected[-1:], atol=2e-3)


@pytest.mark.parametrize("name", ["phi3", "gemma3", "qwen3_moe"])
def test_another_architecture_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """A folder of another architecture is refused with its name and those that are supported."""
    tiny_networks.write_network(name, tmp_path)
    with pytest.raises(UnsupportedModelError, match=rf"architecture '{name}.*supported are llama, mistral"):
        load(tmp_path)


def test_heads_that_the_runtime_does_not_compute_are_refused(tmp_path: Path) -> None:
    """Heads of another width than multiples of 16 are refused before memory is taken, with the width."""
    tiny_networks.write_network("qwen3", tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"heads are 24 wide; .*multiples of 16"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("padding", "ids:1=0"), ("max_batch", "4"), ("batch_delay_ms", "0"), ("states", "a=b")]
)
def test_settings_of_tensors_are_refused(tmp_path: Path, name: str, value: str) -> None:
    """What says something of models of tensors alone is refused by its name for a language model."""
    network_to_gguf.write_network("llama", tmp_path / "tiny.gguf")
    with pytest.raises(LoadError, match=f"tiny.gguf: setting '{name}' is for models of tensors, .* leave it out"):
        load(tmp_path / "tiny.gguf", **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("provider", "cuda", "is 'cuda', but language models are computed by the backend 'onnx' with provider 'cpu'"),
        ("provider", "tensorrt", "is 'tensorrt', but language models"),
        ("provider", "openvino", "is 'openvino', but language models"),
        ("serves", "tensors", "is 'tensors', but this is a language model"),
        ("threads", "2", "is 2, but it is for models of tensors, and nothing of this model reads it; leave it out"),
        ("optional_inputs", "false", "is False, but"),
        ("workspace_mib", "5", "is 5, but"),
    ],
)
def test_what_nothing_of_a_language_model_reads_is_refused(tmp_path: Path, name: str, value: str, why: str) -> None:
    """A provider and other settings that language models do not follow are refused by name, of files and of folders."""
    network_to_gguf.write_network("llama", tmp_path / "tiny.gguf")
    tiny_networks.write_network("llama", tmp_path / "folder")
    for path in (tmp_path / "tiny.gguf", tmp_path / "folder"):
        with pytest.raises(LoadError, match=f"{path.name}: setting '{name}' {why}"):
            load(path, **{name: value})
    with pytest.raises(LoadError, match="folder: setting 'pre_tokenizer' is 'gpt-2', but"):
        load(tmp_path / "folder", pre_tokenizer="gpt-2")


def test_a_window_bounds_the_context(tmp_path: Path) -> None:
    """Of a model with a window a sequence is as long as the window, so that a token sees all before it."""
    tiny_networks.write_network("mistral", tmp_path)
    assert load(tmp_path).session.limits.context_tokens == 19
    with pytest.raises(LoadError, match=r"is 20, but .* 19: it has a window of 19 tokens, .* backend 'cpu'"):
        load(tmp_path, context_tokens="20")


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("compute_as", "least"), [("exact", 1.0), ("auto", 0.9)])
def test_smollm2_gives_the_tokens_of_the_reference(smollm2: Path, compute_as: str, least: float) -> None:
    """A real file continues prompts as fp32 transformers does: exactly, near-ties apart, or nearly so when rounded."""
    cases = list(json.loads(REFERENCE.read_text(encoding="utf-8"))["cases"].values())[:10]
    session = load(smollm2, compute=compute_as, max_step_tokens="2048", kv_tokens="4096").session
    free = iter(np.random.default_rng(0).permutation(session.limits.blocks).tolist())
    parts = []
    for case in cases:
        count = -(-(len(case["prompt"]) + 16) // session.limits.block_tokens)
        blocks = [next(free) for _ in range(count)]
        parts.append(Part(token_ids=case["prompt"], blocks=blocks, wanted=[len(case["prompt"]) - 1]))
    same = total = 0
    for step in range(12):
        chosen = [int(logits.argmax()) for logits in compute(session, *parts)]
        expected = [case["output"][step] for case in cases]
        for case, got, wanted in zip(cases, chosen, expected, strict=True):
            if case["margins"][step] >= 1e-4:
                same, total = same + (got == wanted), total + 1
        parts = [
            Part(token_ids=[token], blocks=part.blocks, begin=part.begin + len(part.token_ids))
            for token, part in zip(expected, parts, strict=True)
        ]
    print(f"{compute_as}: {same} of {total} tokens are those of the reference")  # noqa: T201 - shown by pytest -rP
    assert same >= least * total
    session.close()
