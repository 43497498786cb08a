"""What every backend owes the metadata of a GGUF file: a key that changes results is used or refused by name.

The keys are those of ggml's `docs/gguf.md` and of what llama.cpp writes besides. A backend reads what it knows, and has
`refuse_ignored` look at the rest: a key that it has not read, that stands in no list here, and whose value is not one
that changes nothing, is an error. So a file with something new is refused until somebody has looked at it.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from inferd.plugin.backend import EmbeddingDefaults, LoadError, Pooling, UnsupportedModelError
from inferd.plugin.vocabulary import TokenKind

TOKENIZER: Final = "tokenizer.ggml."
PHI3: Final = re.compile(r"phi[-_ ]?3")  # names of models whose special tokens take the white space behind them along
KEEPING: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})  # of them those that do not
ENDING: Final = frozenset({"</s>"})  # does, whatever its kind
MASKED: Final = frozenset({"nomic-bert-moe", "jina-bert-v3", "jina-v2-de", "jina-v2-es", "jina-v2-code"})
"""Architectures and splitting rules whose mask takes the white space before it along."""

HARMLESS: Final[Mapping[str, str]] = {
    "vocab_size": "the tensors' shapes say it, and are compared with the tokens",
    "embedding_length_out": "the tensors' shapes say it",
    "features_length": "the tensors' shapes say it",
    "expert_feed_forward_length": "the tensors' shapes say it",
    "expert_shared_feed_forward_length": "the tensors' shapes say it",
    "attention.layer_norm_epsilon": "of layer norms, which architectures that have them read",
    "attention.layer_norm_rms_epsilon": "of RMS norms, which architectures that have them read",
    "attention.sliding_window_pattern": "says which layers have a window; without one it says nothing",
    "rope.scaling.factor": "read where positions are scaled",
    "rope.scale_linear": "read where positions are scaled",
    "rope.scaling.original_context_length": "of YaRN and LongRoPE: read, or refused by their type",
    "rope.scaling.finetuned": "tells of the training",
    "rope.scaling.yarn_log_multiplier": "of YaRN: read, or refused by its type",
    "rope.scaling.yarn_ext_factor": "of YaRN: read, or refused by its type",
    "rope.scaling.yarn_attn_factor": "of YaRN: read, or refused by its type",
    "rope.scaling.yarn_beta_fast": "of YaRN: read, or refused by its type",
    "rope.scaling.yarn_beta_slow": "of YaRN: read, or refused by its type",
    "decoder_start_token_id": "of encoders with decoders, which are refused by their architecture",
    "expert_used_count": "without experts it says nothing, and where there are some, who has them reads it",
}
"""Keys of an architecture that change no result where they are not read, and why."""

NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.scale": (0,),
    "attention.output_scale": (0, 1),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_length": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
    "expert_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0,),
    "expert_weights_scale": (0, 1),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "n_deepstack_layers": (0,),
    "rescale_every_n_layers": (0,),
    "swin_norm": (False,),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "tensor_data_layout": ("reference", "Meta AI original pth"),
}
"""Keys of an architecture, and the values with which they change nothing. The two layouts are names of the order that
the converter of an architecture stores rows in, which is the one that backends read."""

TOKENIZER_HARMLESS: Final[Mapping[str, str]] = {
    "token_type_count": "of BERT: all tokens of a text are of the first type",
    "unknown_token_id": "tokens of the kind UNKNOWN say it",
    "padding_token_id": "sequences are not padded",
    "mask_token_id": "no token is masked",
    "cls_token_id": "of BERT; read with its tokenizer",
    "seperator_token_id": "used with add_sep_token only",  # spelt so by ggml
    "precompiled_charsmap": "of T5's tokenizer; read with it",
    "pre": "of byte-level vocabularies; where one has it, it is read",
    "scores": "of SentencePiece vocabularies; where one has them, they are read",
    "merges": "of byte-level vocabularies; where one has them, they are read",
    "add_space_prefix": "of SentencePiece vocabularies; where one has it, it is read",
    "eot_token_id": "ends generation; read where it is there",
    "eom_token_id": "ends generation; read where it is there",
    "eos_token_ids": "ends generation; read where it is there",
    **dict.fromkeys(
        (
            *(f"fim_{place}_token_id" for place in ("pre", "suf", "mid", "pad", "rep", "sep")),
            *("prefix_token_id", "suffix_token_id", "middle_token_id"),
        ),
        "names a token of filling in; a text is read as it is",
    ),
}
"""Keys behind `TOKENIZER` that change no token where they are not read, and why."""

TOKENIZER_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_sep_token": (False,),
    "remove_extra_whitespaces": (False,),
    "escape_whitespaces": (True,),
    "normalizer.lowercase": (False,),
}
"""Keys behind `TOKENIZER`, and the values with which they change nothing."""

GENERAL_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {"general.type": ("model",)}
"""Of the general keys, which tell where a file comes from, those that change results; and when they do not."""

ENDINGS: Final = frozenset(
    {
        *(
            "<|im_end|>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<|end|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<end_of_utterance>",
        ),
        *("<|eot_id|>", "<|eom_id|>", "<|eot|>"),  # Llama 3 and 4; `<|eom|>` goes on in other families
        *("<eos>", "<end_of_turn>", "<turn|>", "<|tool_response>"),  # Gemma
        *("<|return|>", "<|call|>"),  # Harmony
        *("<|flush|>", "<|calls|>"),  # Solar
        "<|observation|>",  # GLM, where it awaits the answer of a tool
    }
)
"""Texts of control tokens that end a turn or a text, whatever `eos_token_id` says. Sources: `generation_config.json` of
the models, and llama.cpp's `llama-vocab.cpp` where it gathers what ends generation."""

CHANNELS: Final = (frozenset({"<|return|>", "<|call|>"}), frozenset({"<|flush|>", "<|calls|>"}))
"""Where a vocabulary has one of these pairs, `<|end|>` closes one channel of an answer, and others follow."""

GGUF_BOS_RULES: Final = frozenset(
    {
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"),
        *("midm-2.0", "chameleon", "jina-v5-nano"),
    }
)
"""Rules of splitting whose tokenizers begin a text with the bos token, although files often do not say so."""

POOLINGS: Final[Mapping[int, Pooling | None]] = {0: None, 1: Pooling.MEAN, 2: Pooling.FIRST, 3: Pooling.LAST}
"""By the number in a file; 0 says nothing."""


NO_MODELS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("adapter", "lora"),
        "an adapter (LoRA), no model; have the model that it was made for use it (inferd adapters load MODEL NAME"
        " {where}), or load that model with --set adapter={where}",
    ),
    "controlvector": "a control vector, which is not supported, and no model",
    **dict.fromkeys(
        ("mmproj", "clip"),
        "what a model sees pictures or hears sounds with (mmproj), and no model; load the model that it was made for"
        " with --set projector={where}",
    ),
    "imatrix": "an importance matrix, which quantising a model takes, and no model; load the model that it was made of",
}
"""Files of GGUF that are no models, by what they say of themselves."""


def refuse_no_model(where: str, read: Callable[[str], Any]) -> None:
    """Refuse a file that is of a model, and is none.

    Args:
        where: The file, for errors.
        read: The value of a key; None where there is none.

    Raises:
        LoadError: It is an adapter, a projector or an importance matrix; says what is done with such a file.
    """
    for key in ("general.type", "adapter.type", "general.architecture"):
        if what := NO_MODELS.get(str(read(key))):
            raise LoadError(f"{where}: {key!r} is {read(key)!r}: it is {what.format(where=where)}")


def refuse_ignored(
    where: str,
    values: Mapping[str, Any],
    *,
    used: Collection[str],
    neutral: Mapping[str, Collection[Any]] | None = None,
    fix: str = "",
) -> None:
    """Refuse a file with a key that changes results and that the backend has not read.

    Args:
        where: The file, for errors.
        values: The value of each key.
        used: Keys that were read.
        neutral: Values of keys of the architecture that change nothing here, beside `NEUTRAL`.
        fix: What to do, as a clause.

    Raises:
        UnsupportedModelError: There is one; it is named with its value.
    """
    prefix = f"{values.get('general.architecture')}."
    more = neutral or {}
    for key, value in values.items():
        if key in used:
            continue
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            known, same = name in HARMLESS, (*NEUTRAL.get(name, ()), *more.get(name, ()))
        elif key.startswith(TOKENIZER):
            name = key.removeprefix(TOKENIZER)
            known, same = name in TOKENIZER_HARMLESS, TOKENIZER_NEUTRAL.get(name, ())
        else:
            known, same = key not in GENERAL_NEUTRAL, GENERAL_NEUTRAL.get(key, ())
        if not known and not any(_equals(value, one) for one in same):
            raise UnsupportedModelError(
                f"{where}: metadata {key!r} is {_show(value)}, which is not supported and may change results"
                f"{f'; {fix}' if fix else ''}"
            )


def _equals(value: Any, wanted: Any) -> bool:
    numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
    return math.isclose(value, wanted, rel_tol=1e-6) if numbers else bool(value == wanted)


def _show(value: Any) -> str:
    if isinstance(value, float):
        value = float(f"{value:.7g}")  # what single precision tells
    text = repr(value) if isinstance(value, str | int | float) else f"an array of {len(value)}"
    return text if len(text) <= 80 else f"{text[:80]}…"  # noqa: PLR2004 - characters of an error


def read_gguf_splitting(where: str, read: Callable[[str], Any], setting: str) -> str:
    """How a byte-level vocabulary splits text, by the file or by the model's setting `pre_tokenizer`.

    Raises:
        LoadError: Neither says it. llama.cpp then splits by a rule of its own and warns of degraded quality; the tokens
            would be a guess.
    """
    rule = setting or read(f"{TOKENIZER}pre")
    if not rule:
        raise LoadError(
            f"{where}: metadata '{TOKENIZER}pre' is missing, so that how text is split into tokens cannot be told;"
            " convert the model again, or name the rule with the setting 'pre_tokenizer', for example 'gpt-2',"
            " 'llama-bpe' or 'qwen2'"
        )
    return str(rule)


def read_gguf_endings(
    where: str, read: Callable[[str], Any], tokens: Sequence[str], kinds: Sequence[int]
) -> tuple[int, ...]:
    """The tokens that end generation: those that a file names, and others that are known to.

    Args:
        where: The file, for errors.
        read: Gives the value of a key; None where it is missing.
        tokens: Text of each token, by id.
        kinds: Kind of each token, by id; a `TokenKind`.

    Raises:
        LoadError: The file names what is no token.
    """
    named = [
        number
        for name in ("eos_token_id", "eos_token_ids", "eot_token_id", "eom_token_id")
        for number in _read_ids(where, f"{TOKENIZER}{name}", read, len(tokens))
    ]
    control = {
        token: number
        for number, token in enumerate(tokens)
        if kinds[number] in (TokenKind.CONTROL, TokenKind.USER_DEFINED)
    }
    known = {number for token, number in control.items() if token in ENDINGS}
    if "<|observation|>" in control and "<|user|>" in control:  # GLM has no other token behind an answer
        known.add(control["<|user|>"])
    goes_on = {control.get("<|end|>")} if any(pair <= control.keys() for pair in CHANNELS) else set()
    return tuple(number for number in dict.fromkeys([*named, *sorted(known)]) if number not in goes_on)


def read_gguf_strips(
    read: Callable[[str], Any], tokens: Sequence[str], kinds: Sequence[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """The tokens that take the white space before them along, and those that take that behind them.

    Files do not say it. As in llama.cpp the name of a model or of its kind tells it: all special tokens of Phi-3 but
    three, and the masks of some encoders.

    Args:
        read: Gives the value of a key; None where it is missing.
        tokens: Text of each token, by id.
        kinds: Kind of each token, by id; a `TokenKind`.
    """
    kind, rule = str(read("general.architecture") or ""), str(read(f"{TOKENIZER}pre") or "")
    name = str(read("general.name") or "").lower()
    before: frozenset[int] = frozenset()
    mask = "<mask>" if kind in MASKED or rule in MASKED else "[MASK]" if kind == "modern-bert" else ""
    if mask:
        before = frozenset(number for number, token in enumerate(tokens) if token == mask)
    elif PHI3.search(name):
        special = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
        found = (number for number, kind in enumerate(kinds) if kind in special or tokens[number] in ENDING)
        return before, frozenset(number for number in found if tokens[number] not in KEEPING)
    return before, frozenset()


def _read_ids(where: str, key: str, read: Callable[[str], Any], count: int) -> list[int]:
    value = read(key)
    if value is None:
        return []
    ids = value if key.endswith("s") else [value]
    if not isinstance(ids, Collection) or isinstance(ids, str) or not all(hasattr(i, "__index__") for i in ids):
        wanted = "an array of whole numbers" if key.endswith("s") else "a whole number"
        raise LoadError(f"{where}: metadata {key!r} is {_show(value)}; it must be {wanted}")
    wrong = next((number for number in ids if not 0 <= number < count), None)
    if wrong is not None:
        raise LoadError(f"{where}: metadata {key!r} is {wrong}; it must be from 0 to {count - 1}")
    return [int(number) for number in ids]


def read_gguf_embedding(where: str, read: Callable[[str], Any]) -> EmbeddingDefaults:
    """How a file wants embeddings to be made.

    Args:
        where: The file, for errors.
        read: Gives the value of a key; None where it is missing.

    Raises:
        UnsupportedModelError: In a way that there is not here.
        LoadError: By a token that it does not name.
    """
    key = f"{read('general.architecture')}.pooling_type"
    number = read(key)
    if number is not None and number not in POOLINGS:
        raise UnsupportedModelError(
            f"{where}: metadata {key!r} is {number!r}; supported are 0 (none), 1 (mean), 2 (first) and 3 (last)"
        )
    adds = read(f"{TOKENIZER}add_eos_token") is True
    if adds and read(f"{TOKENIZER}eos_token_id") is None:
        raise LoadError(f"{where}: metadata '{TOKENIZER}add_eos_token' is true, but no eos_token_id is there")
    return EmbeddingDefaults(pooling=POOLINGS.get(number or 0) or Pooling.LAST, add_eos=adds)
