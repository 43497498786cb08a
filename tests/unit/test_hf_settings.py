"""Settings of Hugging Face folders that change results: they are computed as in transformers, or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_config import HfConfig
from inferd_cpu.hf_settings import DEFAULTS
from inferd_cpu.hf_types import TYPES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from network_to_gguf import make_network  # noqa: E402 - what is imported here needs both
from tiny_folders import IDS, NAMES, change, read_logits, save  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

torch.set_num_threads(1)
ROPE = ("rope_parameters", "rope_theta", "rope_scaling")
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that tests have asked for so far, by their network."""
    return {"": tmp_path_factory.mktemp("bases")}


@pytest.fixture
def copy(bases: dict[str, Path], tmp_path: Path) -> Any:
    """Makes the copy of a folder, of which some settings are gone and others changed."""

    def make(family: str, settings: Settings, drop: tuple[str, ...] = ()) -> Path:
        if family not in bases:
            bases[family] = save(make_network(NAMES[family], 0.3), bases[""] / family)
        folder = tmp_path / "copy"
        folder.mkdir()
        for file in bases[family].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

        def alter(given: Settings) -> None:
            for name in drop:
                given.pop(name, None)
            given.update(settings)

        change(folder, alter)
        return folder

    return make


def check_as_transformers(folder: Path) -> None:
    """The logits are those that transformers computes from the same folder."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(read_logits(folder), expected, atol=3e-4 * np.abs(expected).max())


PUBLISHED = {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
WINDOWS = ("use_sliding_window", "layer_types", "max_window_layers")
FULL = ["full_attention"] * 4
COMPUTED: dict[str, tuple[str, Settings, tuple[str, ...]]] = {
    "alpha": ("hunyuan_dense", {"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", **PUBLISHED}}, ROPE),
    "a left-over window of qwen2": ("qwen2", {"sliding_window": 11}, WINDOWS),
    "a left-over window of qwen3": ("qwen3", {"sliding_window": 11}, WINDOWS),
    "a left-over window of qwen3_moe": ("qwen3_moe", {"sliding_window": 11}, WINDOWS),
    "a left-over window of llama": ("llama", {"sliding_window": 11}, ()),
    "no layer of cohere2 rotates": ("cohere2", {"layer_types": FULL}, ()),
    "no layer of exaone4 rotates": ("exaone4", {"layer_types": FULL}, ()),
    "granite without multipliers": ("granite", {}, tuple(DEFAULTS["granite"])),
    "command_r without a scale": ("command_r", {}, ("logit_scale", *ROPE)),
    "qwen3_moe without a norm": ("qwen3_moe", {}, ("norm_topk_prob",)),
    "gemma2 without caps": ("gemma2", {}, ("attn_logit_softcapping", "final_logit_softcapping")),
    "gemma2 without a scale of scores": ("gemma2", {}, ("query_pre_attn_scalar",)),
    "gemma3 without rotations": ("gemma3", {}, ROPE),
    "smollm3 without rotations": ("smollm3", {}, ROPE),
    "mixtral without rotations": ("mixtral", {}, ROPE),
}


@pytest.mark.parametrize("case", COMPUTED)
def test_settings_are_computed_as_in_transformers(copy: Any, case: str) -> None:
    """Of each setting that was read in a way of its own, also where it is left out."""
    check_as_transformers(copy(*COMPUTED[case]))


REFUSED: dict[str, tuple[str, Settings, str]] = {
    "alpha of another type": ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "alpha": 9.0}}, "'alpha' is 9.0"),
    "unread rotation": ("qwen2", {"rope_parameters": {"rope_type": "default", "stretch": 2}}, "'stretch' is 2"),
    "two rotations": ("qwen2", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "'rope_scaling' is"),
    "not causal": ("qwen2", {"is_causal": False}, "'is_causal' is False"),
    "unknown and false": ("qwen2", {"masks_behind": False}, "'masks_behind' is False, which is not supported"),
    "unknown and zero": ("qwen2", {"shift_of_tokens": 0}, "'shift_of_tokens' is 0"),
    "cap of another type": ("llama", {"final_logit_softcapping": 5.0}, "'final_logit_softcapping' is 5.0"),
    "scale of another type": ("llama", {"logit_scale": 0.25}, "'logit_scale' is 0.25"),
    "partial": ("llama", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5"),
    "scores of another type": ("qwen3", {"query_pre_attn_scalar": 7}, "'query_pre_attn_scalar' is 7"),
    "interval": ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, "'no_rope_layers' is"),
    "no scores": ("granite", {"attention_multiplier": 0.0}, "'attention_multiplier' is '0.0'"),
    "no residual": ("granite", {"residual_multiplier": 0.0}, "'residual_multiplier' is '0.0'"),
    "tied text": ("qwen2", {"tie_word_embeddings": "false"}, "'tie_word_embeddings' is 'false'"),
    "huge": ("llama", {"rms_norm_eps": 10**400}, "layer_norm_rms_epsilon' is inf"),
    "huge in a list": ("llama", {"num_key_value_heads": [1 << 70] * 4}, "head_count_kv' is"),
    "base 1": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0, "factor": 4.0}},
        "freq_base' is 1; of yarn it must be above 1",
    ),
    "base 0": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e-300}}, "must be at least 1e-30"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_not_computed_are_refused(copy: Any, case: str) -> None:
    """With their name and value: whatever is not known to be harmless, and what another type would apply."""
    family, settings, words = REFUSED[case]
    with pytest.raises(LoadError, match=words):
        read_logits(copy(family, settings))


APART = {"gemma3n_text", "mpt", "bloom"}  # the first needs its lists; the others have no rotations
COMPARED = (
    *("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "norm_topk_prob"),
    *("use_sliding_window", "no_rope_layer_interval", "num_kv_shared_layers", "hidden_size_per_layer_input"),
)


def read_defaults(settings: Settings) -> Settings:
    """What a configuration means, as metadata of a file."""
    config = HfConfig(Path("config.json"), settings)
    name, values = config.type.architecture, config.metadata
    meant = {key: values[key].content for key in values if not isinstance(values[key].content, np.ndarray)}
    if meant.get(f"{name}.rope.freq_base_swa") == meant.get(f"{name}.rope.freq_base"):
        meant.pop(f"{name}.rope.freq_base_swa", None)  # as where nothing is said
    return meant | ({} if FAMILIES[name].encodes else {"tied": config.tied})


@pytest.mark.parametrize("name", sorted(set(TYPES) & set(CONFIG_MAPPING) - APART))
def test_an_absent_setting_is_what_transformers_takes(name: str) -> None:
    """A configuration that says nothing but its sizes means the same as one with all defaults of transformers."""
    whole = CONFIG_MAPPING[name]().to_dict() | {"model_type": name}
    dropped = {*COMPARED, *ROPE, "sliding_window", "rope_local_base_freq", "tie_word_embeddings"}
    few = {key: value for key, value in whole.items() if key not in dropped}
    assert read_defaults(few) == read_defaults(whole)


@pytest.mark.parametrize("layers", [4, 35])
def test_the_first_layers_of_gemma3n_are_sparse(layers: int) -> None:
    """Where nothing is said of it, those of a large model are, as transformers takes it."""
    whole = CONFIG_MAPPING["gemma3n_text"](num_hidden_layers=layers, num_kv_shared_layers=1).to_dict()
    whole["model_type"] = "gemma3n_text"
    few = {key: value for key, value in whole.items() if key != "activation_sparsity_pattern"}
    key = "gemma3n.activation_sparsity_scale"
    absent, said = (HfConfig(Path("config.json"), each).metadata[key].content for each in (few, whole))
    np.testing.assert_array_equal(absent, said)
