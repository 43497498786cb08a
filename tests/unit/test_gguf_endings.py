"""Which tokens end generation, by the metadata of a GGUF file, for every backend that reads such files."""

from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError, TokenKind, read_gguf_endings

HARMONY = ["<|endoftext|>", "<|end|>", "<|return|>", "<|call|>", "a"]
SOLAR = ["<|end|>", "<|flush|>", "<|calls|>", "a"]
PHI3 = ["a", "<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"]
LLAMA3 = ["a", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
LLAMA4 = ["a", "<|end_of_text|>", "<|eom|>", "<|eot|>"]
QWEN = ["a", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"]
GEMMA = ["a", "<eos>", "<start_of_turn>", "<end_of_turn>"]
GEMMA4 = ["a", "<eos>", "<|turn>", "<turn|>", "<|tool_response>", "</s>"]
GLM = ["a", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|observation|>"]


def endings(tokens: list[str], *, kind: int = TokenKind.CONTROL, **ids: Any) -> set[str]:
    """The texts of the tokens that end generation; all tokens but "a" are of one kind."""
    values = {f"tokenizer.ggml.{name}": value for name, value in ids.items()}
    kinds = [TokenKind.NORMAL if text == "a" else kind for text in tokens]
    return {tokens[number] for number in read_gguf_endings("file", values.get, tokens, kinds)}


@pytest.mark.parametrize("ids", [{"eos_token_id": 2}, {"eos_token_id": 2, "eot_token_id": 1}, {"eos_token_id": 1}, {}])
def test_the_end_of_a_channel_is_no_end(ids: dict[str, int]) -> None:
    """In a vocabulary of Harmony `<|end|>` closes a channel, whatever the file names; an answer or a call ends."""
    assert endings(HARMONY, **ids) == {"<|return|>", "<|endoftext|>", "<|call|>"}
    assert endings(HARMONY, kind=TokenKind.USER_DEFINED, **ids) == {"<|return|>", "<|endoftext|>", "<|call|>"}


@pytest.mark.parametrize(
    ("tokens", "eos", "expected"),
    [
        (SOLAR, 1, {"<|flush|>", "<|calls|>"}),
        (PHI3, 1, {"<|endoftext|>", "<|end|>"}),
        (["<|return|>", *PHI3], 2, {"<|return|>", "<|endoftext|>", "<|end|>"}),
        (LLAMA3, 1, {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}),
        (LLAMA4, 1, {"<|end_of_text|>", "<|eot|>"}),
        (QWEN, 1, {"<|endoftext|>", "<|im_end|>"}),
        (GEMMA, 1, {"<eos>", "<end_of_turn>"}),
        (GEMMA4, 1, {"<eos>", "<turn|>", "<|tool_response>"}),
        (GLM, 1, {"<|endoftext|>", "<|user|>", "<|observation|>"}),
    ],
)
def test_ends_that_families_have(tokens: list[str], eos: int, expected: set[str]) -> None:
    """The tokens that a family's generation_config.json names end generation, though a file names one of them."""
    assert endings(tokens, eos_token_id=eos) == expected


@pytest.mark.parametrize("kind", [TokenKind.NORMAL, TokenKind.UNUSED])
def test_words_end_nothing(kind: int) -> None:
    """A token that is written like an ending but is a word, or is not in use, ends nothing unless the file names it."""
    assert endings(QWEN, kind=kind) == set()
    assert endings(QWEN, kind=kind, eos_token_id=3) == {"<|im_end|>"}


@pytest.mark.parametrize("several", [[1, 3], np.array([1, 3], np.int32)])
def test_several_ends_of_a_file(several: Any) -> None:
    """A file may name more than one end; the first of its `eos_token_id` comes first, as it closes texts."""
    tokens, kinds = ["a", "b", "c", "d"], [TokenKind.NORMAL] * 4
    values = {"tokenizer.ggml.eos_token_ids": several, "tokenizer.ggml.eos_token_id": 2}
    assert read_gguf_endings("file", values.get, tokens, kinds) == (2, 1, 3)
    assert endings(tokens, eos_token_ids=several, eot_token_id=0, eom_token_id=2) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"eos_token_id": 5}, "'tokenizer.ggml.eos_token_id' is 5; it must be from 0 to 4"),
        ({"eot_token_id": -1}, "'tokenizer.ggml.eot_token_id' is -1; it must be from 0 to 4"),
        ({"eos_token_ids": [1, 9]}, "'tokenizer.ggml.eos_token_ids' is 9; it must be from 0 to 4"),
        ({"eos_token_ids": 3}, "'tokenizer.ggml.eos_token_ids' is 3; it must be an array of whole numbers"),
        ({"eos_token_ids": "12"}, "'tokenizer.ggml.eos_token_ids' is '12'; it must be an array of whole numbers"),
        ({"eom_token_id": "x"}, "'tokenizer.ggml.eom_token_id' is 'x'; it must be a whole number"),
        ({"eos_token_id": 1.0}, "'tokenizer.ggml.eos_token_id' is 1.0; it must be a whole number"),
    ],
)
def test_an_end_that_is_no_token(ids: dict[str, Any], message: str) -> None:
    """An end that is outside the vocabulary, or no number, is a LoadError that names key, value and what it must be."""
    with pytest.raises(LoadError, match=message):
        endings(QWEN, **ids)
