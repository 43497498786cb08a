"""Verbs and nouns may be spelled in the usual ways, in all nouns alike."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.cli.usage import SPELLINGS, spelled


def groups(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    below = [each for name, sub in getattr(command, "commands", {}).items() for each in groups(sub, (*path, name))]
    return [(path, command), *below] if hasattr(command, "commands") else []


GROUPS = groups(typer.main.get_command(app))[1:]


@pytest.mark.parametrize("path", [path for path, _ in GROUPS], ids=" ".join)
def test_each_spelling_of_a_verb_is_that_verb(path: tuple[str, ...]) -> None:
    """Where a noun has a verb, the other words of the same meaning have its help, but for those that it has besides."""
    group = dict(GROUPS)[path]
    for same in SPELLINGS:
        for word in same if set(same) & set(group.commands) else ():
            assert spelled(group, [word, "x"])[0] in group.commands, f"{path} {word}"
    shown = [name for name, each in group.commands.items() if not each.hidden]
    assert not {"ls", "remove", "delete"} & set(shown), "list and rm are what is shown"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["evaluation", "ls"], "evaluations list"),
        (["leases", "list"], "lease list"),
        (["datasets", "delete"], "data rm"),
        (["moderation", "rules", "remove"], "moderation rules rm"),
        (["model", "list"], "models list"),
        (["training", "ls"], "trainings list"),
        (["federations", "list"], "federate list"),
        (["indexes", "ls"], "index list"),
        (["keys", "rm"], "keys revoke"),
        (["certs", "delete"], "certs revoke"),
        (["leases", "rm"], "lease release"),
        (["hosts", "remove"], "hosts rm"),
    ],
)
def test_nouns_and_nested_ones(typed: list[str], meant: str) -> None:
    """The singular and the plural are one, and a verb of a noun below a noun is found, too."""
    done = CliRunner().invoke(app, [*typed, "--help"])
    assert done.exit_code == 0, done.output
    assert meant in done.output


def test_a_noun_alone_lists() -> None:
    """Without a verb a noun lists; its options are those of that; help stays help; what is no word is a mistake."""
    keys, config, trainings = (dict(GROUPS)[(name,)] for name in ("keys", "config", "trainings"))
    assert spelled(keys, []) == spelled(trainings, []) == ["list"]
    assert spelled(keys, ["-o", "json"]) == ["list", "-o", "json"]
    assert spelled(keys, ["--help"]) == ["--help"]
    assert spelled(config, []) == []
    assert spelled(keys, ["nosuch"]) == ["nosuch"]
