"""How GGUF files order the rows of queries and keys, by architecture: one table for all that turn them."""

from typing import Final

PAIRED: Final = frozenset({"llama", "mistral3", "smollm3", "arcee", "granite", "granitemoe", "minicpm"})
"""Their rotary pairs are neighbours in GGUF files, and (i, i + half of a head) in folders of Hugging Face."""

SAME: Final = frozenset(
    {
        *("qwen2", "qwen2moe", "qwen3", "qwen3moe", "seed_oss", "hunyuan-dense", "hunyuan-moe", "ernie4_5"),
        *("ernie4_5-moe", "gemma", "gemma2", "gemma3", "phi2", "phi3", "phimoe", "starcoder2", "nemotron"),
        *("command-r", "cohere2", "olmo2", "olmoe", "exaone", "exaone4", "glm4", "glm4moe", "gpt-oss", "dots1"),
        *("stablelm", "mpt"),
    }
)
"""All their matrices have the rows of both in the same order. Those in neither set may have yet another one."""
