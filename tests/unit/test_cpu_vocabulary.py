"""Vocabularies from metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError
from inferd_cpu.vocabulary import read_vocabulary
from inferd_weights.metadata import Kind, Metadata, Value

TOKENS = ["a", "b", "<|im_end|>", "<|eot_id|>", "<s>"]


def metadata(**overrides: Value | None) -> Metadata:
    """A byte-level vocabulary; `overrides` replace keys behind `tokenizer.ggml.`, or remove them."""
    values: dict[str, Value | None] = {
        "model": text("gpt2"),
        "pre": text("smollm"),
        "tokens": texts(TOKENS),
        "token_type": integers([1, 1, 3, 1, 3]),
        "merges": texts(["a b"]),
        "bos_token_id": integer(4),
        "eos_token_id": integer(0),
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in (values | overrides).items() if value is not None}
    return Metadata(Path("model.gguf"), named)


def text(value: str) -> Value:
    return Value(Kind.STRING, value)


def texts(values: list[str]) -> Value:
    return Value(Kind.ARRAY, values, Kind.STRING)


def integer(value: int) -> Value:
    return Value(Kind.U32, value)


def integers(values: list[int]) -> Value:
    return Value(Kind.ARRAY, np.array(values), Kind.I32)


def test_byte_level_vocabulary() -> None:
    """The model "gpt2" is "bpe" with its merges and splitting rule; text gets no bos unless the file asks for it."""
    vocabulary = read_vocabulary(metadata())
    assert (vocabulary.algorithm, vocabulary.pre_tokenizer) == ("bpe", "smollm")
    assert (list(vocabulary.tokens), list(vocabulary.merges)) == (TOKENS, ["a b"])
    assert (list(vocabulary.kinds), list(vocabulary.scores)) == ([1, 1, 3, 1, 3], [])
    assert (vocabulary.bos_id, vocabulary.add_bos, vocabulary.chat_template) == (4, False, None)
    assert read_vocabulary(metadata(add_bos_token=Value(Kind.BOOL, True))).add_bos
    assert read_vocabulary(metadata(pre=text("llama-bpe"))).add_bos


def test_sentence_piece_vocabulary() -> None:
    """The model "llama" is "spm" with its scores; text gets bos and space in front unless the file objects."""
    scores = Value(Kind.ARRAY, np.arange(5, dtype=np.float32), Kind.F32)
    vocabulary = read_vocabulary(metadata(model=text("llama"), scores=scores, merges=None, pre=None))
    assert (vocabulary.algorithm, list(vocabulary.scores)) == ("spm", [0, 1, 2, 3, 4])
    assert (vocabulary.add_bos, vocabulary.add_space_prefix, list(vocabulary.merges)) == (True, True, [])
    bare = metadata(model=text("llama"), scores=scores, add_space_prefix=Value(Kind.BOOL, False))
    assert not read_vocabulary(bare).add_space_prefix


def test_ends_of_generation() -> None:
    """The eos, eot and eom ids end generation, and so do known turn-end tokens if they are control tokens."""
    assert read_vocabulary(metadata()).eos_ids == (0, 2)  # <|eot_id|> is a normal token here
    assert read_vocabulary(metadata(eot_token_id=integer(1), eom_token_id=integer(4))).eos_ids == (0, 1, 4, 2)
    assert read_vocabulary(metadata(eos_token_id=None, token_type=None)).eos_ids == ()
    assert read_vocabulary(metadata(eos_token_ids=integers([1, 3]))).eos_ids == (0, 1, 3, 2)
    harmony = texts(["<|endoftext|>", "<|end|>", "<|return|>", "<|call|>", "a"])
    kinds = integers([3, 3, 3, 3, 1])
    assert read_vocabulary(metadata(tokens=harmony, token_type=kinds, eos_token_id=integer(2))).eos_ids == (2, 0, 3)


def test_chat_template() -> None:
    """The chat template is handed on as it stands, and so is the one for tools; "default" may be a name too."""

    def read(**templates: str) -> tuple[str | None, str | None]:
        values = dict(metadata()) | {f"tokenizer.{key.replace('__', '.')}": text(x) for key, x in templates.items()}
        vocabulary = read_vocabulary(Metadata(Path("model.gguf"), values))
        return vocabulary.chat_template, vocabulary.tool_use_template

    assert read(chat_template="{{ messages }}") == ("{{ messages }}", None)
    assert read(chat_template="a", chat_template__tool_use="b", chat_template__rag="c") == ("a", "b")
    assert read(chat_template__default="a", chat_template__tool_use="b") == ("a", "b")
    assert read() == (None, None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model": text("rwkv")}, "'rwkv', which is not supported; supported: 'gpt2', 'llama', 'bert', 't5'"),
        ({"model": None}, "'tokenizer.ggml.model' is missing"),
        ({"tokens": integers([1])}, "'tokenizer.ggml.tokens' is an array of I32; it must be an array of texts"),
        ({"tokens": texts([])}, "has no tokens"),
        ({"token_type": integers([1])}, "has 1 kinds for 5 tokens"),
        ({"token_type": integers([1, 1, 7, 1, 1])}, "has a kind 7; kinds are 0 to 6"),
        ({"eos_token_id": integer(5)}, "'tokenizer.ggml.eos_token_id' is 5; it must be from 0 to 4"),
        ({"merges": None}, "'tokenizer.ggml.merges' is missing"),
        ({"model": text("llama"), "scores": Value(Kind.ARRAY, np.ones(2), Kind.F32)}, "has 2 numbers for 5 tokens"),
    ],
)
def test_refuses_contradictions(overrides: Mapping[str, Any], message: str) -> None:
    """A vocabulary that contradicts itself is a LoadError that names the key and both numbers."""
    with pytest.raises(LoadError, match=message):
        read_vocabulary(metadata(**overrides))
