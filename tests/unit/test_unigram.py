"""Unigram vocabularies of GGUF files, against SentencePiece (tests/reference/make_unigram.py)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import unigram_files
from unigram_files import check, read

from inferd.engine.text.detokenizer import decode
from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import LoadError
from inferd_weights.metadata import Kind, Value

MODELS: dict[str, Any] = json.loads(Path(unigram_files.__file__).with_name("unigram.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_sentencepiece(name: str) -> None:
    """With a table of characters or none, spaces removed or kept, pieces across spaces, bytes of what is unknown."""
    check(MODELS[name])


def test_ends_are_those_that_the_file_asks_for() -> None:
    """A text ends with a token unless the file says otherwise, and begins with one where it says so."""
    model = MODELS["like T5"]
    (case,) = (case for case in model["cases"] if case["text"].startswith("The quick"))
    flag = {value: Value(Kind.BOOL, value) for value in (True, False)}
    for changes, first, last in (
        ({"add_eos_token": None}, [], [2]),
        ({"add_bos_token": flag[True]}, [1], []),
        ({"add_bos_token": flag[True], "add_eos_token": flag[True]}, [1], [2]),
    ):
        tokenizer = Tokenizer(read(model, **changes), size=len(model["tokens"]))
        assert tokenizer.encode(case["text"]) == [*first, *case["ids"], *last]
        assert tokenizer.encode(case["text"], template=True) == case["ids"]


def test_tokens_give_their_text_back() -> None:
    """Token by token, as an output is told: spaces, and characters that are several bytes."""
    model = MODELS["bytes"]
    tokenizer = Tokenizer(read(model), size=len(model["tokens"]))
    for case in model["cases"]:
        assert decode(tokenizer.pieces, case["ids"]) == case["text"].replace("\u2581", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"precompiled_charsmap": Value(Kind.STRING, "x")},
            "'tokenizer.ggml.precompiled_charsmap' is STRING; it must be an array of bytes",
        ),
        (
            {"token_type": Value(Kind.ARRAY, np.ones(300, np.int32), Kind.I32)},
            "'tokenizer.ggml.unknown_token_id' is missing, and no token is of the kind UNKNOWN",
        ),
        (
            {"unknown_token_id": Value(Kind.U32, 300)},
            "'tokenizer.ggml.unknown_token_id' is 300; it must be from 0 to 299",
        ),
        ({"add_bos_token": Value(Kind.BOOL, True), "bos_token_id": None}, "'tokenizer.ggml.bos_token_id' is missing"),
        ({"scores": None}, "'tokenizer.ggml.scores' is missing"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    """A key that is missing or of another type is an error with its name."""
    with pytest.raises(LoadError, match=message):
        read(MODELS["like T5"], **changes)
