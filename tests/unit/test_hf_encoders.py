"""Hugging Face folders of encoders, which make embeddings: against transformers, and a published one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import LoadedModel, LoadError, LoadRequest, UnsupportedModelError, read_hf_pooling
from inferd.plugin.backend import Pooling, read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_types import TYPES
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from encoder_to_gguf import ENCODERS, SIZES, VOCABULARY  # noqa: E402 - it needs both
from tiny_networks import write_tokenizer  # noqa: E402

torch.set_num_threads(1)
LENGTHS = (1, 17, 100, 2, 11, 64)
BERTS: dict[str, dict[str, Any]] = {"bert": {}, "roberta": {"pad_token_id": 1}, "xlm-roberta": {"pad_token_id": 1}}
SETTINGS = (
    BERTS
    | {"nomic_bert": {}}
    | {kind: settings for name, (kind, settings, _) in ENCODERS.items() if name != "gemma-embedding"}
)  # whose folders have layers behind the pooling


def write(kind: str, folder: Path, *, head: bool = False) -> Any:
    """Save an encoder, perhaps with a head for masked tokens; the encoder."""
    config = transformers.AutoConfig.for_model(kind, **(SIZES | SETTINGS[kind]))
    torch.manual_seed(11)
    made = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
    network = made.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if weight.dim() == 1 or "norm" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
    network.save_pretrained(folder)
    write_tokenizer(folder)
    return network.base_model


def load(path: Path) -> LoadedModel:
    settings = read_settings(SPEC, {"kv_tokens": "2048", "compute": "exact"})
    request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None)


def check(network: Any, model: LoadedModel, prompts: list[list[int]]) -> None:
    """Hidden states of all tokens, of all prompts in one step."""
    blocks, parts = 0, []
    for ids in prompts:
        count = -(-len(ids) // 16)
        parts.append(Part(token_ids=ids, blocks=range(blocks, blocks + count), wanted=[]))
        blocks += count
    batch = make_batch(parts)
    result = model.session.step(replace(batch, hidden_rows=np.arange(len(batch.token_ids), dtype=np.int32)))
    with torch.inference_mode():
        states = [network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in prompts]
    expected = np.concatenate(states)
    np.testing.assert_allclose(result.hidden, expected, atol=2e-4 * np.abs(expected).max())
    model.session.close()


@pytest.mark.parametrize("head", [False, True], ids=["plain", "with a head"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, kind: str, head: bool) -> None:  # noqa: FBT001 - of pytest
    """Of each type of encoder, as it is saved alone and with a head for masked tokens, which is not used."""
    network = write(kind, tmp_path, head=head)
    draw = np.random.default_rng(1)
    model = load(tmp_path)
    assert model.embedding.pooling is Pooling.MEAN
    check(network, model, [draw.integers(3, VOCABULARY, size=count).tolist() for count in LENGTHS])


def test_every_type_is_compared() -> None:
    """No type of encoder is offered that nothing was compared with."""
    assert {name for name, known in TYPES.items() if FAMILIES[known.architecture].encodes} == set(SETTINGS)


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    """Other positions, others to skip, and a layer behind the pooling are refused."""
    write("xlm-roberta", tmp_path)
    sound = json.loads((tmp_path / "config.json").read_text())
    for changes, words in (
        ({"position_embedding_type": "relative_key"}, "'position_embedding_type' is 'relative_key'"),
        ({"is_decoder": True}, "'is_decoder' is true"),
        ({"pad_token_id": 0}, "'pad_token_id' is 0; it must be 1"),
        ({"max_position_embeddings": 64}, "has shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(sound | changes))
        with pytest.raises(LoadError, match=words):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(sound))
    (tmp_path / "2_Dense").mkdir()
    with pytest.raises(UnsupportedModelError, match="2_Dense: a layer behind the pooling is not supported"):
        load(tmp_path)


def name_modules(folder: Path, *named: str) -> None:
    """A folder of sentence-transformers: of each module the place and the type."""
    listed = [dict(zip(("path", "type"), each.split(":"), strict=True)) for each in named]
    (folder / "modules.json").write_text(json.dumps(listed))


def write_pooling(folder: Path, settings: dict[str, Any], name: str = "1_Pooling") -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(settings))


POOLED = [
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, Pooling.MEAN),
    ({"pooling_mode_cls_token": 1, "pooling_mode_mean_tokens": 0}, Pooling.FIRST),
    ({"pooling_mode": "mean", "embedding_dimension": 64, "include_prompt": True}, Pooling.MEAN),
    ({"pooling_mode": "cls"}, Pooling.FIRST),
    ({"pooling_mode": ["lasttoken"]}, Pooling.LAST),
    ({"pooling_mode": "weightedmean"}, "pooling by \\['weightedmean'\\] is not supported"),
    ({"pooling_mode": ["cls", "mean"]}, "pooling by \\['cls_token', 'mean_tokens'\\]"),
    ({"pooling_mode": "max"}, "pooling by \\['max'\\]"),
    ({"pooling_mode": 3}, "pooling by \\['3'\\]"),
    ({"pooling_mode_max_tokens": True}, "pooling by \\['max_tokens'\\]"),
    ({"pooling_mode_mean_tokens": "yes"}, "'pooling_mode_mean_tokens' is yes; it must be true or false"),
    ({"pooling_mode_mean_tokens": False}, "pooling by \\[\\]"),
    ({"pooling_mode": "mean", "weights": [1]}, "'weights' is .* may change results"),
]


@pytest.mark.parametrize(("settings", "expected"), POOLED, ids=str)
def test_pooling_is_that_of_the_folder_or_refused(
    tmp_path: Path, settings: dict[str, Any], expected: Pooling | str
) -> None:
    """As both writings of sentence-transformers say it; what they do not say is not guessed."""
    write_pooling(tmp_path, settings)
    if isinstance(expected, Pooling):
        assert read_hf_pooling(tmp_path).pooling is expected
    else:
        with pytest.raises(LoadError, match=expected):
            read_hf_pooling(tmp_path)


def test_modules_are_computed_or_refused(tmp_path: Path) -> None:
    """The pooling is in the folder that modules.json names; a module that is not computed is named."""
    st = "sentence_transformers.models"
    write_pooling(tmp_path, {"pooling_mode_mean_tokens": True})
    write_pooling(tmp_path, {"pooling_mode_cls_token": True}, "2_Pooling")
    name_modules(tmp_path, f":{st}.Transformer", f"2_Pooling:{st}.Pooling", f"3_Normalize:{st}.Normalize")
    assert read_hf_pooling(tmp_path).pooling is Pooling.FIRST
    name_modules(tmp_path, f":{st}.Transformer")
    assert read_hf_pooling(tmp_path, default=Pooling.MEAN).pooling is Pooling.MEAN
    for named, words in (
        ((f":{st}.Transformer", f"1_Pooling:{st}.Pooling", f"2_Dense_1024:{st}.Dense"), "Dense' in '2_Dense_1024'"),
        ((f"1_Pooling:{st}.WeightedLayerPooling",), "WeightedLayerPooling'"),
        (("1_Pooling:own.Pooling",), "'own.Pooling'"),
        ((f"0_Transformer:{st}.Transformer",), "is in '0_Transformer', which is no place for it"),
        ((f"../1_Pooling:{st}.Pooling",), "no place for it"),
        ((f"9_Pooling:{st}.Pooling",), "it names poolings in \\['9_Pooling'\\]"),
        ((f"1_Pooling:{st}.Pooling", f"2_Pooling:{st}.Pooling"), "there must be one"),
    ):
        name_modules(tmp_path, *named)
        with pytest.raises(LoadError, match=words):
            read_hf_pooling(tmp_path)


@pytest.mark.model
@pytest.mark.timeout(600)
def test_a_published_folder(minilm: Path) -> None:
    """all-MiniLM-L6-v2 as it is published: its tokens, and the states that transformers gives."""
    model = load(minilm)
    network = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    tokenizer = Tokenizer(model.vocabulary, size=model.session.limits.vocabulary_size)
    library = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["The cats sat.", "An unhappy caf\u00e9, \u4f60\u597d!", "x" * 120, "How much is $1,234.56?"]
    expected = [library(text)["input_ids"] for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert model.embedding.pooling is Pooling.MEAN
    check(network, model, expected)
