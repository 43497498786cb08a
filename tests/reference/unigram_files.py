"""Unigram models as GGUF files have them, and what is compared of them."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import Vocabulary
from inferd_cpu.vocabulary import read_vocabulary
from inferd_weights.metadata import Kind, Metadata, Value


def read(model: dict[str, Any], **changes: Value | None) -> Vocabulary:
    """The vocabulary of a file with this model; a change of None leaves a key out."""
    values: dict[str, Value | None] = {
        "model": Value(Kind.STRING, "t5"),
        "tokens": Value(Kind.ARRAY, model["tokens"], Kind.STRING),
        "scores": Value(Kind.ARRAY, np.array(model["scores"], np.float32), Kind.F32),
        "token_type": Value(Kind.ARRAY, np.array(model["kinds"], np.int32), Kind.I32),
        "eos_token_id": Value(Kind.U32, 2),
        "bos_token_id": Value(Kind.U32, 1),
        "add_eos_token": Value(Kind.BOOL, False),
        "add_space_prefix": Value(Kind.BOOL, model["add_space_prefix"]),
        "remove_extra_whitespaces": Value(Kind.BOOL, model["remove_extra_whitespaces"]),
        "precompiled_charsmap": Value(Kind.ARRAY, np.frombuffer(base64.b64decode(model["table"]), np.uint8), Kind.U8),
    } | changes
    keys = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    return read_vocabulary(Metadata(Path("t5.gguf"), keys))


def check(model: dict[str, Any]) -> None:
    """Each text has the tokens that SentencePiece gives it."""
    tokenizer = Tokenizer(read(model), size=len(model["tokens"]))
    for case in model["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
