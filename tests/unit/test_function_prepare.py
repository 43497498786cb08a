"""What calls of a function need is loaded before its first call, and not for others of its package."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from inferd.engine.cells.calls import Caller
from inferd.plugin.functions import offer_files
from inferd_functions import tokens

MODULE = '''
from inferd.plugin import function, hookimpl

loaded = []


def load():
    loaded.append("load")


@function(prepare=load)
def costly(text: str) -> str:
    """Needs what is loaded."""
    return text


@function(prepare=load, version=2, name="costly")
def costly_2(text: str) -> str:
    """Needs the same."""
    return text


@function()
def cheap(text: str) -> str:
    """Needs nothing."""
    return text


@hookimpl
def inferd_functions():
    return costly, costly_2, cheap
'''


def test_a_function_is_prepared_before_its_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a package loads nothing, nor does a call of another function; those that name the same share it."""
    (tmp_path / "prepared_functions.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    caller = Caller("prepared_functions")
    import prepared_functions  # type: ignore[import-not-found] # noqa: PLC0415 - written just now

    for name, version, so_far in (("cheap", 1, 0), ("none", 1, 0), ("costly", 1, 1), ("costly", 2, 1)):
        caller.prepare(name, version, {})
        assert len(prepared_functions.loaded) == so_far, name


def test_what_prepares_may_read_the_files_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that the operator names is read before the first call, once; where there are many, none is."""
    monkeypatch.setattr(tokens, "tokenizers", SimpleNamespace(Tokenizer=Read))
    named = {}
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
        named[name] = str(tmp_path / name)
    for count, read in ((3, 0), (2, 2), (1, 1)):
        tokens._tokenizer.cache_clear()
        Read.count = 0
        Caller("inferd_functions.plugin").prepare("tokenise", 1, dict(list(named.items())[:count]))
        assert Read.count == read
    tokens._tokenizer.cache_clear()
    offer_files({})


class Read:
    """Stands for a tokenizer; counts how many were read."""

    count = 0

    @classmethod
    def from_buffer(cls, _: bytes) -> None:
        """One more."""
        cls.count += 1
