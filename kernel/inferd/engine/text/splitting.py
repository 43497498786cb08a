"""How byte-level BPE vocabularies split text before merging: the rules that GGUF names in `tokenizer.ggml.pre`.

The patterns are those of the models' own `tokenizer.json` files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
_PUNCTUATED: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASIAN: Final = (  # Chinese, Japanese, Thai, Lao, Khmer, Burmese and Korean
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\uac00-\ud7af\u1100-\u11ff]+"
)
# Letters with a case, as DeepSeek's first tokenizers list them: code points in hexadecimal, and ranges of them.
_CASED_POINTS: Final = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 "
    "3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a "
    "1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 "
    "1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 "
    "212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d "
    "a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f "
    "104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943 "
)
_CASED_LETTERS: Final = re.sub(r"[0-9a-f]+", lambda point: chr(int(point[0], 16)), _CASED_POINTS).replace(" ", "")


@dataclass(frozen=True, slots=True)
class Rule:
    """How text is split.

    Attributes:
        patterns: What each matches becomes a piece, and so does what lies between; each splits what those before left.
        gpt2: The rule of GPT-2, which is built into the byte-level step, splits what they leave.
        whole_words: A word that is a token itself is taken as it is, merges or not.
        composes: Text is brought into Unicode's composed form (NFC) first.
        linear: Its time grows with the length of a text, and no faster, whatever the text is.
    """

    patterns: tuple[str, ...] = ()
    gpt2: bool = False
    whole_words: bool = False
    composes: bool = False
    linear: bool = True


GPT2: Final = Rule(gpt2=True)
DIGITS: Final = Rule((r"\p{N}",), gpt2=True)  # each digit alone
CL100K: Final = Rule((rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}",))
LLAMA3: Final = replace(CL100K, whole_words=True)
ONE_DIGIT: Final = Rule((rf"{_WORDS}|\p{{N}}|{_REST}",))
QWEN2: Final = replace(ONE_DIGIT, composes=True)
_MARKED: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35: Final = Rule((_MARKED,), composes=True)
TEKKEN: Final = Rule((rf"{_CASED}|\p{{N}}|{_CASED_REST}",), whole_words=True)
GPT4O: Final = Rule(
    (
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}"
            rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}|\p{{N}}{{1,3}}|{_CASED_REST}"
        ),
    )
)
KIMI: Final = Rule(
    (
        (
            rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]*[{_LOWER}&&[^\p{{Han}}]]+{_CONTRACTIONS}"
            rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]+[{_LOWER}&&[^\p{{Han}}]]*{_CONTRACTIONS}"
            rf"|\p{{N}}{{1,3}}|{_REST}"
        ),
    )
)
DEEPSEEK_LLM: Final = Rule(
    (
        r"[\r\n]",
        rf"\s?[{_CASED_LETTERS}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}+",
    )
)
DEEPSEEK_CODER: Final = Rule(
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
)
DEEPSEEK_V3: Final = Rule((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+", _PUNCTUATED))
AFMOE: Final = Rule((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _PUNCTUATED), linear=False)
FALCON: Final = Rule((r"[\p{P}$+<=>^~|`]+", r"[0-9][0-9][0-9]"), gpt2=True)
SENTENCES: Final = Rule((r" ?[^(\s|.,!?…。，、।۔،)]+",))  # noqa: RUF001 - of several scripts
VIKING: Final = replace(SENTENCES, patterns=(*SENTENCES.patterns, r"\p{N}"))
CHAMELEON: Final = Rule(
    (
        r"<sentinel:[0-9]+>",
        r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
    ),
    gpt2=True,
)
SUPERBPE: Final = Rule((r"\p{N}+", r"(?=(\d{3})+(?!\d))"), linear=False)
BAILING: Final = Rule(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
SEED_CODER: Final = Rule(
    (rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
)

_NAMES: Final[Mapping[Rule, str]] = {
    GPT2: "default gpt-2 phi-2 olmo mpt jais trillion granite-docling exaone4 mellum jina-es jina-de jina-v2-es"
    " jina-v2-de gigachat a.x-4.0 modern-bert",
    DIGITS: "smollm starcoder refact command-r codeshell exaone minerva-7b",
    CL100K: "glm4 chatglm-bpe",
    LLAMA3: "llama-bpe llama3 llama-v3 dbrx smaug-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    ONE_DIGIT: "hunyuan grok-2",
    QWEN2: "qwen2 stablelm2 deepseek-r1-qwen megrez kormo",
    QWEN35: "qwen35",
    TEKKEN: "tekken",
    GPT4O: "gpt-4o llama4 minimax-m2 kanana2",
    KIMI: "kimi-k2",
    DEEPSEEK_LLM: "deepseek-llm",
    DEEPSEEK_CODER: "deepseek-coder",
    DEEPSEEK_V3: "deepseek-v3 hunyuan-dense",
    AFMOE: "afmoe",
    FALCON: "falcon",
    SENTENCES: "bloom gpt3-finnish poro-chat",
    VIKING: "viking",
    CHAMELEON: "chameleon",
    SUPERBPE: "superbpe",
    BAILING: "bailingmoe bailingmoe2 llada-moe",
    SEED_CODER: "seed-coder",
}

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {"": GPT2} | {name: rule for rule, names in _NAMES.items() for name in names.split()}
)
"""By name; files from before the key existed have none."""

_LINEAR: Final = frozenset(pattern for rule in _NAMES if rule.linear for pattern in rule.patterns)


def is_linear(pattern: str) -> bool:
    """Whether a pattern is known to take time that grows with the length of a text, and no faster: one of ours."""
    return pattern in _LINEAR


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
    rule = RULES[name]
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in rule.patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.gpt2)])


def merges_whole_words(name: str) -> bool:
    """Whether a word that is a token itself is taken as it is, merges or not."""
    return RULES[name].whole_words


def composes(name: str) -> bool:
    """Whether text is brought into Unicode's composed form (NFC) first."""
    return RULES[name].composes
