"""Texts as the tokens of a model."""

from functools import cache
from typing import Any

from inferd.plugin import function, function_file
from inferd_functions.libraries import library

tokenizers = library("tokenizers")
FILE = "tokenizer.json"


@cache  # of one process: a call for many texts reads it once
def _tokenizer(name: str) -> Any:
    path = function_file(name)
    file = path / FILE if path.is_dir() else path
    try:
        return tokenizers.Tokenizer.from_buffer(file.read_bytes())
    except OSError as error:
        raise ValueError(f"tokenizer {name!r} cannot be read: {error.strerror}; look at functions.files") from None
    except Exception as error:  # noqa: BLE001 - whatever the library makes of a file that is none
        raise ValueError(f"tokenizer {name!r} is no {FILE}: {error}; look at functions.files") from None


@function(timeout_s=300, memory_bytes=512 << 20)
def tokenise(text: str, tokenizer: str, *, special: bool = False) -> list[int]:
    """Make the tokens of a text, by a model's tokenizer.

    Args:
        text: What is made tokens of.
        tokenizer: A name of `functions.files`, which says where its tokenizer.json is, or the folder that has it.
        special: Whether the tokens are added that the model has at the beginning and the end of a text.
    """
    ids: list[int] = _tokenizer(tokenizer).encode(text, add_special_tokens=special).ids
    return ids
