"""Vocabularies of merges of characters, as files of Gemma 4 have them, against the public tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from inferd.engine.text.detokenizer import decode
from inferd.engine.text.tokenizer import Tokenizer as Encoder
from inferd.plugin import LoadError
from inferd_cpu.vocabulary import read_vocabulary
from inferd_weights.metadata import Kind, Metadata, Value

transformers = pytest.importorskip("transformers")

TEXT = Path(__file__).read_text(encoding="utf-8") * 4
TEXTS = (
    "def  read(x):\n\n\n    return 'ä'",
    " begins and ends with spaces  ",
    "\n\n",
    "日本 🙂 naïve",
    "<turn> is written",
    "",
)
UNKNOWN = "<unk>"
SPECIAL = ["<pad>", "<eos>", "<bos>", UNKNOWN, "<mask>", "<turn>"]


def train() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces of this file, behind special ones and all bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


VOCABULARY, MERGES = train()


def read(**changes: Any) -> Any:
    """The vocabulary of a file with these keys."""
    tokens = sorted(VOCABULARY, key=lambda token: VOCABULARY[token])
    kinds = [1] * len(tokens)
    for number, token in enumerate(tokens):
        if token in SPECIAL:
            kinds[number] = 2 if token == UNKNOWN else 3
        elif token.startswith("<0x"):
            kinds[number] = 6
    values = {
        "model": Value(Kind.STRING, "gemma4"),
        "tokens": Value(Kind.ARRAY, tokens, Kind.STRING),
        "token_type": Value(Kind.ARRAY, np.array(kinds, np.int32), Kind.I32),
        "merges": Value(Kind.ARRAY, [f"{a} {b}" for a, b in MERGES], Kind.STRING),
        "bos_token_id": Value(Kind.U32, VOCABULARY["<bos>"]),
        "eos_token_id": Value(Kind.U32, VOCABULARY["<eos>"]),
        "add_bos_token": Value(Kind.BOOL, True),
    }
    return read_vocabulary(Metadata(Path("f.gguf"), {f"tokenizer.ggml.{k}": v for k, v in (values | changes).items()}))


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_public_tokenizer(text: str) -> None:
    """Spaces, runs of them, lines and characters that are no token; and the tokens give the text back."""
    public = transformers.GemmaTokenizer(vocab=VOCABULARY, merges=MERGES)
    public.add_tokens(["<turn>"], special_tokens=True)
    expected = public._tokenizer.encode(text, add_special_tokens=False).ids
    ours = Encoder(read(), size=len(VOCABULARY))
    assert ours.encode(text, template=True) == expected
    assert ours.encode(text) == [VOCABULARY["<bos>"], *expected]
    if VOCABULARY["<turn>"] not in expected:
        assert decode(ours.pieces, expected) == text


def test_a_merge_of_what_is_no_token_is_named() -> None:
    """The pair is in the message."""
    with pytest.raises(LoadError, match=r"merges' has \('zz', 'q'\), which are not two tokens"):
        read(merges=Value(Kind.ARRAY, ["zz q"], Kind.STRING))
