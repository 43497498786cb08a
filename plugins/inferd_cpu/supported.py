"""What files and folders may hold for this backend, by name: inert data for `inferd models --supported`."""

from collections.abc import Mapping
from typing import Final

from inferd_cpu.families import FAMILIES
from inferd_cpu.family import Family
from inferd_cpu.hf_types import TYPES, WRAPPED

NUMBERS: Final = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
"""Stored formats of numbers; quants.py has their decoders."""


def is_compiled(family: Family) -> bool:
    """Whether the library computes all parts of a family."""
    only_numpy = family.convolutions or family.delta or family.latent or family.encodes or family.value_norm
    return not (only_numpy or family.slopes or (family.experts and family.experts.gating == "mixer"))


def describe() -> Mapping[str, tuple[str, ...]]:
    """By kind."""
    return {
        "GGUF architectures, compiled": tuple(name for name, family in FAMILIES.items() if is_compiled(family)),
        "GGUF architectures, with numpy": tuple(name for name, family in FAMILIES.items() if not is_compiled(family)),
        "GGUF numbers": NUMBERS,
        "GGUF tokenizers": ("gpt2", "llama", "bert", "t5", "gemma4"),
        "Hugging Face types": tuple(TYPES),
        "Hugging Face types, of which the text": tuple(WRAPPED),
        "Hugging Face tokens": ("tokenizer.json", "tekken.json", "vocab.json and merges.txt", "tokenizer.model (bpe)"),
        "GGUF rotations": ("none", "linear", "llama3 (rope_freqs)", "yarn", "longrope"),
    }
