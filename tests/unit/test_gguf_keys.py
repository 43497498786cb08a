"""Metadata of GGUF files that changes results is used or refused by name, by every backend that reads such files."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny

from inferd.plugin import EmbeddingDefaults, LoadedModel, LoadError, LoadRequest, Pooling
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU_SPEC
from inferd_torch.plugin import SPEC as TORCH_SPEC

Load = Callable[..., LoadedModel]
HAS_TORCH = importlib.util.find_spec("torch") is not None
MODEL = tiny.MODELS["llama"]
LEAST_CHANGE = 1e-3  # of logits; between computations of one model they differ by less

CHANGING: dict[str, Any] = {
    "llama.attention.causal": False,
    "llama.attention.sliding_window": 8,
    "llama.attention.clamp_kqv": 0.5,
    "llama.attention.max_alibi_bias": 8.0,
    "llama.attention.scale": 0.5,
    "llama.attention.temperature_scale": 0.1,
    "llama.attn_logit_softcapping": 5.0,
    "llama.final_logit_softcapping": 30.0,
    "llama.logit_scale": 0.0625,
    "llama.embedding_scale": 12.0,
    "llama.residual_scale": 0.22,
    "llama.use_parallel_residual": True,
    "llama.tensor_data_layout": "jploski",
    "llama.rope.scaling.attn_factor": 1.2,
    "llama.rope.freq_base_swa": 10000.0,
    "llama.rope.dimension_sections": [4, 4, 4],
    "llama.attention.sliding_window_type": "chunked",
    "llama.something_new": 1,
    "llama.pooling_type": 4,
    "tokenizer.ggml.add_sep_token": True,
    "tokenizer.ggml.remove_extra_whitespaces": True,
    "tokenizer.ggml.something_new": "x",
    "general.type": "adapter",
}
BESIDE: dict[str, dict[str, Any]] = {"llama.attention.temperature_scale": {"llama.attention.temperature_length": 8}}
HARMLESS: dict[str, Any] = {
    "llama.attention.causal": True,
    "llama.attention.scale": tiny.HEAD_WIDTH**-0.5,
    "llama.attention.clamp_kqv": 0.0,
    "llama.attention.sliding_window": 0,
    "llama.attn_logit_softcapping": 0.0,
    "llama.logit_scale": 1.0,
    "llama.embedding_scale": 1.0,
    "llama.expert_count": 0,
    "llama.expert_used_count": 0,
    "llama.pooling_type": 0,
    "llama.rope.scaling.original_context_length": 8192,
    "llama.rope.scaling.type": "none",
    "llama.tensor_data_layout": "Meta AI original pth",
    "llama.use_parallel_residual": False,
    "llama.vocab_size": tiny.VOCABULARY_SIZE,
    "general.type": "model",
    "general.something_new": "whatever",
    "general.base_model.0.name": "SmolLM2",
    "quantize.imatrix.entries_count": 7,
    "tokenizer.ggml.add_eos_token": False,
    "tokenizer.ggml.add_sep_token": False,
    "tokenizer.ggml.fim_pre_token_id": 3,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.huggingface.json": "{}",
}


@pytest.fixture(params=["cpu", pytest.param("torch", marks=pytest.mark.skipif(not HAS_TORCH, reason="needs torch"))])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Loads the tiny model with more metadata, by each backend that reads GGUF files."""

    def load_with(more: dict[str, Any], **settings: str) -> LoadedModel:
        path = tiny.write_model(MODEL, tmp_path / "tiny.gguf", more)
        if request.param == "torch":
            from inferd_torch.backend import TorchBackend  # noqa: PLC0415 - imports torch

            spec, backend = TORCH_SPEC, TorchBackend()
        else:
            spec, backend = CPU_SPEC, CpuBackend()
        wanted = LoadRequest(path=path, device="cpu:0", settings=read_settings(spec, settings), capacity_bytes=1 << 30)
        backend.measure(wanted)
        return backend.load(wanted, lambda _: None)

    return load_with


def read_logits(loaded: LoadedModel) -> Any:
    """Those of a short text; the model is closed."""
    blocks = range(-(-len(tiny.PROMPT) // loaded.session.limits.block_tokens))
    logits = compute(loaded.session, Part(token_ids=tiny.PROMPT, blocks=blocks))[0]
    loaded.session.close()
    return logits


@pytest.mark.parametrize("key", CHANGING)
def test_what_changes_results_is_used_or_refused_by_name(load: Load, key: str) -> None:
    """A key that changes results changes them here, or is an error with the key and its value."""
    value = CHANGING[key]
    shown = "an array of 3" if isinstance(value, list) else repr(value)[:6]
    said = ""
    try:
        changed = read_logits(load({key: value, **BESIDE.get(key, {})}))
    except LoadError as error:
        said = str(error)
    if said:
        assert re.search(rf"'{key}' is {shown}", said), said
    else:
        assert np.abs(changed - read_logits(load({}))).max() > LEAST_CHANGE


def test_what_changes_nothing_is_taken(load: Load) -> None:
    """Values that change nothing, and keys that tell where a model comes from, do not keep it from loading."""
    load(HARMLESS).session.close()


def test_several_ends_come_with_the_model(load: Load) -> None:
    """A file that names several tokens that end generation has all of them, with every backend."""
    loaded = load({"tokenizer.ggml.eos_token_ids": [3, 5]})
    assert {3, 5} <= set(loaded.vocabulary.eos_ids)
    loaded.session.close()


def test_a_missing_rule_of_splitting(load: Load) -> None:
    """A byte-level vocabulary without its rule is refused with the fix, which mends it; a setting goes first."""
    with pytest.raises(LoadError, match=r"'tokenizer\.ggml\.pre' is missing.* setting 'pre_tokenizer'"):
        load({"tokenizer.ggml.pre": None})
    for more in ({"tokenizer.ggml.pre": None}, {}):
        loaded = load(more, pre_tokenizer="qwen2")
        assert loaded.vocabulary.pre_tokenizer == "qwen2"
        loaded.session.close()


def test_how_embeddings_are_made_comes_with_the_model(load: Load) -> None:
    """Pooling and the token behind a text are those of the file; without a word in it the last token, and none."""
    expected: dict[int | None, Pooling] = {None: Pooling.LAST, 1: Pooling.MEAN, 2: Pooling.FIRST, 3: Pooling.LAST}
    for number, pooling in expected.items():
        for adds in (None, True):
            loaded = load({"llama.pooling_type": number, "tokenizer.ggml.add_eos_token": adds})
            assert loaded.embedding == EmbeddingDefaults(pooling=pooling, add_eos=bool(adds))
            loaded.session.close()
    with pytest.raises(LoadError, match="add_eos_token' is true, but no eos_token_id"):
        load({"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.add_eos_token": True})
