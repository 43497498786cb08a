"""Texts as the tokens of a model."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from inferd.plugin import function, function_file, function_files
from inferd_functions.libraries import library

tokenizers = library("tokenizers")
FILE = "tokenizer.json"
PREPARED = 2  # tokenizers at most that are read before calls name them: each takes some megabytes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a text at a time: threads would be made for each call


def prepare() -> None:
    """Read the tokenizers of `functions.files`, unless there are many: else each call would read its own."""
    found = [name for name, path in function_files().items() if _is_tokenizer(path)]
    for name in found if len(found) <= PREPARED else ():
        try:
            _tokenizer(name)
        except ValueError:
            continue  # a call that names it says what is wrong


@cache  # of one process, and of those that are forked from it
def _tokenizer(name: str) -> Any:
    path = function_file(name)
    try:
        return tokenizers.Tokenizer.from_buffer(_file(path).read_bytes())
    except OSError as error:
        raise ValueError(f"tokenizer {name!r} cannot be read: {error.strerror}; look at functions.files") from None
    except Exception as error:  # noqa: BLE001 - whatever the library makes of a file that is none
        raise ValueError(f"tokenizer {name!r} is no {FILE}: {error}; look at functions.files") from None


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _is_tokenizer(path: Path) -> bool:
    try:
        file = _file(path)
        return file.name == FILE and file.is_file()
    except OSError:  # nobody may look there: a call that names it says so, and others do not need it
        return False


@function(timeout_s=300, memory_bytes=512 << 20, prepare=prepare)
def tokenise(text: str, tokenizer: str, *, special: bool = False) -> list[int]:
    """Make the tokens of a text, by a model's tokenizer.

    Args:
        text: What is made tokens of.
        tokenizer: A name of `functions.files`, which says where its tokenizer.json is, or the folder that has it.
        special: Whether the tokens are added that the model has at the beginning and the end of a text.
    """
    (found,) = _tokenizer(tokenizer).encode_batch_fast([text], add_special_tokens=special)  # without places in the text
    ids: list[int] = found.ids
    return ids
