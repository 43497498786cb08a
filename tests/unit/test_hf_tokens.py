"""Folders without a tokenizer.json: their other files of tokens, against tiktoken, SentencePiece and transformers."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.engine.text.splitting import TEKKEN
from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import LoadError, UnsupportedModelError, Vocabulary, hf_tokens, read_hf_vocabulary
from inferd.plugin.sentencepiece import read_sentencepiece
from inferd.plugin.vocabulary import TokenKind

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "reference" / "folder_tokens.json").read_text())
TEXTS: list[str] = RECORDED["texts"]
END = "<|endoftext|>"


def encode(vocabulary: Vocabulary) -> list[list[int]]:
    """What the texts become, without what is put around a text."""
    tokenizer = Tokenizer(vocabulary, size=len(vocabulary.tokens))
    return [tokenizer.encode(text, template=True) for text in TEXTS]


def write_tekken(folder: Path, **changes: Any) -> Path:
    (folder / "tekken.json").write_text(json.dumps(RECORDED["tekken"]["file"] | changes))
    return folder


def write_pieces(folder: Path, name: str, **said: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(base64.b64decode(RECORDED["pieces"][name]["file"]))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def write_merges(folder: Path, name: str = "GPT2Tokenizer", **said: Any) -> Path:
    """A small vocabulary of bytes with its merges, under names of its own."""
    entries = RECORDED["tekken"]["file"]["vocab"]
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in entries]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    spell = {token: hf_tokens._spell(token) for token in tokens}
    vocab = {spell[token]: rank for token, rank in ranks.items()} | {END: len(tokens)}
    merges = [
        f"{spell[token[:at]]} {spell[token[at:]]}"
        for token in tokens
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **said}))
    return folder


def test_a_tekken_file_gives_the_tokens_of_tiktoken(tmp_path: Path) -> None:
    """Behind the control tokens, which older files do not list; a text begins with its first token."""
    vocabulary = read_hf_vocabulary(write_tekken(tmp_path), {"vocab_size": 760}, {})
    assert encode(vocabulary) == RECORDED["tekken"]["ids"]
    assert (vocabulary.tokens[3], vocabulary.tokens[39], len(vocabulary.tokens)) == ("[INST]", "<SPECIAL_39>", 760)
    assert (vocabulary.bos_id, vocabulary.eos_ids) == (1, (2,))
    tokenizer = Tokenizer(vocabulary, size=760)
    assert tokenizer.encode("[INST]kernel")[:2] == [1, 3]
    assert tokenizer.pieces[3] == ""


def test_control_tokens_that_a_tekken_file_lists_are_those(tmp_path: Path) -> None:
    """Under their own names; those that it leaves out have a name that no text has by chance."""
    listed = [{"rank": 0, "token_str": "<unk>", "is_control": True}, {"rank": 7, "token_str": "[THINK]"}]
    vocabulary = read_hf_vocabulary(write_tekken(tmp_path, special_tokens=listed), {}, {})
    assert vocabulary.tokens[:8] == ["<unk>", *(f"<SPECIAL_{n}>" for n in range(1, 7)), "[THINK]"]


def test_the_pattern_is_that_of_the_engine() -> None:
    """Files are compared with the pattern that texts are split by."""
    assert TEKKEN.patterns == (hf_tokens._TEKKEN_PATTERN,)


@pytest.mark.parametrize("name", ["bpe", "bpe without a space in front"])
def test_a_model_of_sentencepiece_gives_its_tokens(tmp_path: Path, name: str) -> None:
    """Of the kind that merges pairs; `<s>` begins a text unless the folder says that it does not."""
    vocabulary = read_hf_vocabulary(write_pieces(tmp_path, name), {}, {})
    assert encode(vocabulary) == RECORDED["pieces"][name]["ids"]
    assert (vocabulary.bos_id, vocabulary.eos_ids, vocabulary.add_bos) == (1, (2,), True)
    assert not read_hf_vocabulary(write_pieces(tmp_path, name, add_bos_token=False), {}, {}).add_bos


def test_tokens_that_the_settings_add_to_a_model_of_sentencepiece(tmp_path: Path) -> None:
    """Behind its pieces, found in any text; numbers without a token fill what the network has more."""
    flags = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {"602": {"content": "<|end|>", **flags}, "1": {"content": "<s>", **flags}}
    said = {"added_tokens_decoder": added, "eos_token": "<|end|>"}
    folder = write_pieces(tmp_path, "bpe", **said)
    vocabulary = read_hf_vocabulary(folder, {"vocab_size": 608}, {})
    assert (len(vocabulary.tokens), vocabulary.eos_ids) == (608, (602,))
    assert vocabulary.kinds[600:604] == [TokenKind.UNUSED, TokenKind.UNUSED, TokenKind.CONTROL, TokenKind.UNUSED]
    assert Tokenizer(vocabulary, size=608).encode("kernel<|end|>")[-1] == 602


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocabularies_with_merges_give_the_tokens_of_transformers(tmp_path: Path, name: str) -> None:
    """The class of the tokenizer says how text is split, and whether it is composed first."""
    folder = write_merges(tmp_path, name)
    vocabulary = read_hf_vocabulary(folder, {}, {})
    transformers = pytest.importorskip("transformers")
    library = getattr(transformers, name).from_pretrained(folder)
    assert encode(vocabulary) == [library(text)["input_ids"] for text in TEXTS]
    tokenizer = Tokenizer(vocabulary, size=len(vocabulary.tokens))
    assert tokenizer.encode(f"a{END}b") == library(f"a{END}b")["input_ids"]


def test_the_type_of_the_model_says_the_class_where_nobody_does(tmp_path: Path) -> None:
    """As older folders of GPT-2 have it, whose tokenizer_config.json says no more than the length of a text."""
    folder = write_merges(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    assert read_hf_vocabulary(folder, {"model_type": "gpt2"}, {}).pre_tokenizer == "gpt-2"
    with pytest.raises(UnsupportedModelError, match="is known of GPT2Tokenizer, Qwen2Tokenizer, not of 'None'"):
        read_hf_vocabulary(folder, {"model_type": "roberta"}, {})


SIZES = {"pattern": TEKKEN.patterns[0], "default_vocab_size": 41, "default_num_special_tokens": 40}
FEW = RECORDED["tekken"]["file"]["vocab"][:2]
WRONG_TEKKEN: dict[str, tuple[dict[str, Any], str]] = {
    "pattern": ({"config": SIZES | {"pattern": "x+"}}, "pattern is 'x.', which is not supported"),
    "counts": ({"config": SIZES | {"default_vocab_size": 40}}, "40 control tokens of 40; they must be fewer"),
    "huge": ({"config": SIZES | {"default_vocab_size": 1 << 40}}, "all at most 4194304"),
    "no list": ({"vocab": {}}, "no 'config' and 'vocab'"),
    "ranks": ({"vocab": FEW[1:], "config": SIZES}, "token 0 has rank 1"),
    "bytes": ({"vocab": [{"rank": 0, "token_bytes": "?"}], "config": SIZES}, "token 0 has no bytes"),
    "control": ({"special_tokens": [{"rank": 99, "token_str": "x"}]}, "each needs a rank below 40"),
    "twice": ({"special_tokens": [{"rank": 0, "token_str": "a"}]}, "token 'a' is there twice"),
}


@pytest.mark.parametrize("case", WRONG_TEKKEN)
def test_tekken_files_that_are_wrong_are_refused(tmp_path: Path, case: str) -> None:
    """With what is wrong, before much is made of them."""
    changes, words = WRONG_TEKKEN[case]
    with pytest.raises(LoadError, match=words):
        read_hf_vocabulary(write_tekken(tmp_path, **changes), {}, {})


def test_long_tokens_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, and what splitting all of them into two would take."""
    vocab = [{"rank": n, "token_bytes": base64.b64encode(bytes([n]) * 1025).decode()} for n in range(40)]
    folder = write_tekken(tmp_path, vocab=vocab, config=SIZES | {"default_vocab_size": 80})
    with pytest.raises(LoadError, match="token 0 has 1025 bytes; the limit is 1024"):
        read_hf_vocabulary(folder, {}, {})
    monkeypatch.setattr(hf_tokens, "MAX_SPLITS", 1000)
    with pytest.raises(LoadError, match="split into two in more than 1000 ways"):
        read_hf_vocabulary(write_tekken(tmp_path), {}, {})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unigram", "it is a unigram model of SentencePiece"),
        ("table", "its precompiled_charsmap changes texts"),
        ("spaces", "its remove_extra_whitespaces changes texts"),
    ],
)
def test_models_of_sentencepiece_of_other_kinds_are_refused(tmp_path: Path, name: str, words: str) -> None:
    """By name: they need more than their pieces."""
    with pytest.raises(UnsupportedModelError, match=words):
        read_hf_vocabulary(write_pieces(tmp_path, name), {}, {})


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_model_of_sentencepiece_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    """Wherever it ends."""
    folder = write_pieces(tmp_path, "bpe")
    file = folder / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(LoadError, match="no model of SentencePiece, or it is damaged"):
        read_hf_vocabulary(folder, {}, {})


@settings(max_examples=examples(60), deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_break_the_reader_of_sentencepiece(noise: bytes, at: int) -> None:
    """Whatever a file holds, it is a model or is refused with an error of its own."""
    whole = base64.b64decode(RECORDED["pieces"]["bpe"]["file"])
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(LoadError):
            read_sentencepiece(Path("tokenizer.model"), data)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"add_prefix_space": True}, "add_prefix_space is true, which is not supported"),
        ({"bos_token": "<start>"}, "'<start>' is no token of the vocabulary"),
        ({"added_tokens_decoder": {"5": {"content": "x y"}}}, "token 5 is 'x y' and"),
        ({"added_tokens_decoder": {"9999999999": {"content": "z"}}}, "has number 9999999999; it must be below"),
        ({"tokenizer_class": "CodeGenTokenizer"}, "not of 'CodeGenTokenizer': save the tokenizer with AutoTokenizer"),
    ],
    ids=str,
)
def test_settings_that_vocabularies_contradict_are_refused(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    """With the name of the setting, or the token."""
    with pytest.raises(LoadError, match=words):
        read_hf_vocabulary(write_merges(tmp_path, **said), {}, {})


def test_pairs_that_are_none_are_refused(tmp_path: Path) -> None:
    """A line of three."""
    folder = write_merges(tmp_path)
    (folder / "merges.txt").write_text("a b c\n")
    with pytest.raises(LoadError, match="'a b c' is no pair of tokens"):
        read_hf_vocabulary(folder, {}, {})


def test_a_folder_without_tokens_names_the_files_that_may_have_them(tmp_path: Path) -> None:
    """All of them."""
    with pytest.raises(LoadError, match=r"no tokenizer\.json, and no tekken\.json, vocab\.json with merges\.txt or"):
        read_hf_vocabulary(tmp_path, {}, {})


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is read, with both numbers."""
    folder = write_tekken(tmp_path)
    monkeypatch.setattr(hf_tokens, "MAX_FILE_BYTES", 100)
    with pytest.raises(LoadError, match=r"tekken\.json has \d+ bytes; the limit is 100"):
        read_hf_vocabulary(folder, {}, {})
