"""Settings of folders that hold anything: each is read, or refused with an error of its own."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import LoadError
from inferd_cpu.architecture import read_architecture
from inferd_cpu.hf_config import HfConfig

pytest.importorskip("torch")
pytest.importorskip("transformers")
from tiny_families import FAMILIES
from tiny_family import BASE
from transformers import AutoConfig

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 1 << 30, 1 << 40, 10**400, 0.5, -2.5, 1e308, float("nan")),
    *("", "x", "silu", [], [1], [-1, 2], ["conv"], ["full_attention"], {}, {"rope_type": "yarn"}, {"factor": "x"}),
)
NAMES = (
    *("gpt_oss", "deepseek_v2", "deepseek_v3", "lfm2", "lfm2_moe", "glm4_moe", "granitemoeshared", "stablelm2"),
    *("ministral3", "gpt2", "starcoder", "gptneox", "falcon_two_norms", "ernie4_5_moe", "hunyuan_moe", "dots1"),
)


def read(settings: dict[str, Any]) -> None:
    """What a configuration means, or why it is refused."""
    with contextlib.suppress(LoadError):
        config = HfConfig(Path("config.json"), settings)
        read_architecture(config.metadata, halves=config.halves, grouped=True)


@pytest.mark.parametrize("name", NAMES)
def test_no_value_of_a_setting_breaks_the_reader(name: str) -> None:
    """One setting after the other holds what it should not, and is left out; no other error comes of it."""
    family = FAMILIES[name]
    sound = AutoConfig.for_model(family.model_type, **(BASE | family.config)).to_dict()
    sound["model_type"] = family.model_type
    rotations = sound.get("rope_parameters") or {}
    for setting in rotations:
        for value in VALUES:
            read(sound | {"rope_parameters": rotations | {setting: value}})
    for setting in (*sound, "full_attn_idxs", "num_kv_heads", "scale_emb", "mscale"):
        for settings in ({k: v for k, v in sound.items() if k != setting}, *(sound | {setting: v} for v in VALUES)):
            read(settings)
