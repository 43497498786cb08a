"""How byte-level BPE vocabularies split text before merging: the rules that GGUF names in `tokenizer.ggml.pre`.

The patterns are those of the models' own `tokenizer.json` files.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from inferd.errors import ModelLoadError, suggestion

_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED: Final = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_CASED_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

GPT2: Final = ""  # the rule of GPT-2 is built into the byte-level step
DIGITS: Final = r"\p{N}"  # each digit alone, then the rule of GPT-2
LLAMA3: Final = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN2: Final = rf"{_WORDS}|\p{{N}}|{_REST}"
TEKKEN: Final = rf"{_CASED}|\p{{N}}|{_CASED_REST}"
GPT4O: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}"
    rf"|\p{{N}}{{1,3}}|{_CASED_REST}"
)

RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "": GPT2,  # files from before the key existed
        "default": GPT2,
        "gpt-2": GPT2,
        "olmo": GPT2,
        "smollm": DIGITS,
        "starcoder": DIGITS,
        "refact": DIGITS,
        "command-r": DIGITS,
        "codeshell": DIGITS,
        "llama-bpe": LLAMA3,
        "llama3": LLAMA3,
        "llama-v3": LLAMA3,
        "dbrx": LLAMA3,
        "smaug-bpe": LLAMA3,
        "qwen2": QWEN2,
        "stablelm2": QWEN2,
        "deepseek-r1-qwen": QWEN2,
        "tekken": TEKKEN,
        "gpt-4o": GPT4O,
        "llama4": GPT4O,
    }
)


def splitter(name: str) -> PreTokenizer:
    """The rule of this name, as a pre-tokenizer that ends in the byte-level alphabet.

    Raises:
        ModelLoadError: No such rule is known. A wrong rule would give wrong tokens silently, so there is no default.
    """
    if name not in RULES:
        known = [rule for rule in RULES if rule]
        near = suggestion(name, known)
        hint = f"; the nearest known one is {near!r}" if near else ""
        cause = f"unknown pre-tokenizer {name!r}{hint}"
        raise ModelLoadError(f"{cause}. Known: {', '.join(known)}", metadata={"cause": cause})
    pattern = RULES[name]
    if pattern in (GPT2, DIGITS):
        bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if pattern == GPT2:
            return bytes_of_words
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of_words])
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def merges_whole_words(name: str) -> bool:
    """Whether a word that is a token itself is taken as it is, merges or not."""
    return RULES[name] in (LLAMA3, TEKKEN)


def composes(name: str) -> bool:
    """Whether text is brought into Unicode's composed form (NFC) first."""
    return RULES[name] == QWEN2
