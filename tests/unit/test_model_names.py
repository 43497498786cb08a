"""Names that models may have."""

import pytest

from inferd.cli.catalogue import CATALOGUE
from inferd.model_declarations import read_entries
from inferd.model_names import is_hidden, is_name
from inferd.runtime.formats import model_name

PATHS = [
    "",
    "..",
    ".",
    ".hidden",
    "/etc/passwd",
    "../../../pwn",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a/..",
    "a\n",
    "x" * 129,
]
NAMES = ["a", "org/model:7b-q4.1", "a..b", "a/.b", "a/..b", "-a", "chat:trial", "x" * 128, *CATALOGUE]


def test_what_stands_in_the_place_of_a_model_is_hidden() -> None:
    """A training is no model to clients; versions of models, of one called training too, and packages are."""
    assert is_hidden("training@019abcdef0a1b2c3d4e5")
    assert not any(map(is_hidden, ("chat", "chat@3", "training@3", "package@inferd", "functions@clean", "chat:1")))


def test_no_name_is_a_path_elsewhere() -> None:
    """A name begins with no dot and no slash, and no part of it is empty or of dots; so is what files are called."""
    assert [name for name in PATHS if is_name(name)] == []
    assert [name for name in NAMES if not is_name(name)] == []
    assert [model_name(file) for file in (".hidden.gguf", "...", "..a.gguf")] == ["hidden", "model", "a"]


@pytest.mark.parametrize("field", ["name", "aliases"])
def test_the_configuration_declares_no_such_name(field: str) -> None:
    """An entry of such a name, or alias, is left out, with the rule."""
    said = {"name": "a", "source": "/x"} | ({"name": "../x"} if field == "name" else {"aliases": ["../x"]})
    entries, (fault,) = read_entries("file", [said])
    assert (entries, fault.field.partition(".")[0]) == ([], field)
    assert "must not begin with '.' or '/'" in fault.why


def test_all_faults_of_an_entry_are_told_at_once() -> None:
    """Each with its field; a digest may be the digits alone."""
    wrong = {"name": "a", "min_instance": 1, "max_instances": 99, "digest": "12"}
    _, faults = read_entries("file", [wrong])
    assert sorted(fault.field for fault in faults) == ["digest", "max_instances", "min_instance", "source"]
    (entry,), _ = read_entries("file", [{"name": "a", "source": "/x", "digest": "1" * 64}])
    assert entry.model.digest == f"sha256:{'1' * 64}"
