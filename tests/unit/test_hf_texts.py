"""What a folder says of texts besides its tokenizer: done as it says, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from inferd.plugin import Pooling, UnsupportedModelError, Vocabulary, read_hf_pooling, read_hf_vocabulary

SAYS_TRUE, SAYS_FALSE = {"add_prefix_space": True}, {"add_prefix_space": False}


def write(folder: Path, settings: dict[str, Any], *, prefix: bool = False, normalizer: Any = None) -> Path:
    """A folder with a tokenizer of two letters, and what a tokenizer_config.json says."""
    inner = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=prefix)]
    )
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def read(folder: Path) -> Vocabulary:
    return read_hf_vocabulary(folder, {}, {})


@pytest.mark.parametrize("said", [SAYS_TRUE, SAYS_FALSE], ids=["true", "false"])
def test_a_space_in_front_is_said_the_same_twice(tmp_path: Path, said: dict[str, bool]) -> None:
    """Where the settings and the tokenizer contradict each other, no text is encoded by one of them in silence."""
    wanted = said["add_prefix_space"]
    assert read(write(tmp_path, said, prefix=wanted)).definition
    assert read(write(tmp_path, {"add_prefix_space": None}, prefix=wanted)).definition
    write(tmp_path, said, prefix=not wanted)
    words = rf"add_prefix_space is {str(wanted).lower()}, but .* {str(not wanted).lower()} in its ByteLevel"
    with pytest.raises(UnsupportedModelError, match=rf"tokenizer_config\.json: {words}"):
        read(tmp_path)


@pytest.mark.parametrize("lowers", [True, False])
def test_small_letters_are_said_the_same_twice(tmp_path: Path, *, lowers: bool) -> None:
    """As with the space, wherever in the normalizer the step is."""
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(lowercase=lowers)])
    assert read(write(tmp_path, {"do_lower_case": lowers}, normalizer=normalizer)).definition
    assert read(write(tmp_path, {"do_lower_case": not lowers}, normalizer=normalizers.NFC())).definition
    write(tmp_path, {"do_lower_case": not lowers}, normalizer=normalizer)
    with pytest.raises(UnsupportedModelError, match=r"do_lower_case is .* in its BertNormalizer: give them the same"):
        read(tmp_path)


def test_special_tokens_that_are_split(tmp_path: Path) -> None:
    """Texts are split at special tokens: a folder that wants them read as letters is refused."""
    assert read(write(tmp_path, {"split_special_tokens": False})).definition
    with pytest.raises(UnsupportedModelError, match=r"split_special_tokens is True, which is not supported"):
        read(write(tmp_path, {"split_special_tokens": True}))


PROMPTS = {"query": "query: ", "document": ""}


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"prompts": PROMPTS, "default_prompt_name": "query"}, True),
        ({"prompts": PROMPTS, "default_prompt_name": "document"}, False),
        ({"prompts": PROMPTS, "default_prompt_name": None}, False),
        ({"prompts": PROMPTS}, False),
        ({"default_prompt_name": 7}, True),
    ],
)
def test_prompts_in_front_of_all_texts(tmp_path: Path, said: dict[str, Any], *, refused: bool) -> None:
    """A prompt that sentence-transformers puts in front of texts that ask for none is told, and not left out."""
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(said))
    if not refused:
        assert read_hf_pooling(tmp_path).pooling is Pooling.LAST
        return
    with pytest.raises(UnsupportedModelError, match=r"default_prompt_name '(query|7)' puts .* in front of each text"):
        read_hf_pooling(tmp_path)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_texts_in_small_letters(tmp_path: Path, name: str) -> None:
    """Texts that sentence-transformers makes small are refused, unless the tokenizer makes them small itself."""
    write(tmp_path, {})
    (tmp_path / name).write_text(json.dumps({"max_seq_length": 8, "do_lower_case": False}))
    assert read_hf_pooling(tmp_path).pooling is Pooling.LAST
    (tmp_path / name).write_text(json.dumps({"max_seq_length": 8, "do_lower_case": True}))
    for normalizer in (None, normalizers.BertNormalizer(lowercase=False)):
        write(tmp_path, {}, normalizer=normalizer)
        with pytest.raises(UnsupportedModelError, match=f"{name}: do_lower_case is true, which is not done here"):
            read_hf_pooling(tmp_path)
    for normalizer in (normalizers.Lowercase(), normalizers.BertNormalizer(lowercase=True)):
        write(tmp_path, {}, normalizer=normalizers.Sequence([normalizer]))
        assert read_hf_pooling(tmp_path).pooling is Pooling.LAST
