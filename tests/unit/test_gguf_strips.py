"""White space beside special tokens, of which GGUF files do not say that it belongs to them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as Inner

from inferd.engine.text.control import Prompt
from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import Vocabulary
from inferd_cpu.vocabulary import read_vocabulary
from inferd_weights.metadata import Kind, Metadata, Value

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PLAIN = [SPACE, "H", "i", f"{SPACE}H", f"{SPACE}Hi"]
SPECIAL = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PLAIN, *SPECIAL]
KINDS = [2, 3, 3, *[6] * 256, *[1] * len(PLAIN), *[3] * len(SPECIAL)]
SCORES = [*[0.0] * 259, -10.0, -9.0, -8.0, -3.0, -1.0, *[0.0] * len(SPECIAL)]
CHAT = "<|user|>\nHi<|end|>\n<|assistant|>\n"


def read(name: str, architecture: str = "phi3", **more: Any) -> Vocabulary:
    """A vocabulary of SentencePiece as a file of this name has it; `more` are numbers, texts or lists."""

    def make(value: Any) -> Value:
        if isinstance(value, str):
            return Value(Kind.STRING, value)
        if isinstance(value, int):
            return Value(Kind.U32, value)
        if isinstance(value[0], str):
            return Value(Kind.ARRAY, value, Kind.STRING)
        numbers = np.array(value)
        return Value(Kind.ARRAY, numbers, Kind.F32 if numbers.dtype.kind == "f" else Kind.I32)

    given = {"model": "llama", "tokens": TOKENS, "token_type": KINDS, "scores": SCORES} | more
    values = {f"tokenizer.ggml.{key}": make(value) for key, value in given.items()}
    values |= {"general.name": make(name), "general.architecture": make(architecture)}
    return read_vocabulary(Metadata(Path("model.gguf"), values))


def reference() -> Inner:
    """The same as the model's folder has it: special tokens take the white space behind them along."""
    ids = {token: number for number, token in enumerate(TOKENS[: -len(SPECIAL)])}
    merges = [(SPACE, "H"), (f"{SPACE}H", "i")]
    inner = Inner(models.BPE(vocab=ids, merges=merges, unk_token=TOKENS[0], fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    bare = ("<unk>", "<s>", "<|endoftext|>")
    added = ["<unk>", "<s>", "</s>", *SPECIAL]
    inner.add_special_tokens([AddedToken(x, normalized=False, special=True, rstrip=x not in bare) for x in added])
    return inner


@pytest.mark.parametrize("name", ["Phi3", "Phi-3-mini-4k-instruct", "Phi 3.5 Mini Instruct"])
@pytest.mark.parametrize("text", [CHAT, "<|endoftext|> Hi", "</s>\n\nHi <|end|>  Hi"])
def test_special_tokens_of_phi3_take_what_is_behind_them(name: str, text: str) -> None:
    """A conversation has the tokens of the model's own tokenizer, also where only the template's are tokens."""
    tokenizer = Tokenizer(read(name), size=len(TOKENS))
    expected = reference().encode(text).ids
    assert tokenizer.encode(text, template=True) == expected
    own = tuple((at, token) for token in SPECIAL for at in range(len(text)) if text.startswith(token, at))
    if text == CHAT:
        assert tokenizer.encode_prompt(Prompt(text=text, own=tuple(sorted(own)))) == expected
    assert tokenizer.longest_bytes is None  # one token may stand for any number of spaces


def test_other_models_keep_white_space() -> None:
    """A file of another name has the same tokens without that, and then each character is in a token."""
    tokenizer = Tokenizer(read("Llama 2"), size=len(TOKENS))
    assert tokenizer.encode(CHAT, template=True) != reference().encode(CHAT).ids
    assert tokenizer.longest_bytes is not None


def test_masks_of_encoders_take_what_is_before_them() -> None:
    """`<mask>` of jina-bert-v3, whose definition says it, and `[MASK]` of modern-bert."""
    pieces = [*TOKENS[:-1], "<mask>"]
    vocabulary = read("Jina", "jina-bert-v3", model="t5", tokens=pieces, bos_token_id=1, eos_token_id=2)
    one, other = (Tokenizer(vocabulary, size=len(pieces)).encode(text) for text in ("Hi <mask>", "Hi<mask>"))
    assert one == other
    masked = read(
        "ModernBERT",
        "modern-bert",
        model="gpt2",
        pre="gpt-2",
        tokens=["a", "b", "[MASK]"],
        token_type=[1, 1, 3],
        merges=["a b"],
    )
    assert read("x", "modern-bert").strips_before == frozenset()
    assert masked.strips_before == {2}
