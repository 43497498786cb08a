"""The documents say what the code does."""

import re
from enum import Enum
from pathlib import Path

import pytest
import typer

import inferd.plugin
from inferd.cli import main
from inferd.config import Leases, Limits, Scheduler
from inferd.core.evaluation import EVALUATION_TABLE
from inferd.core.federation import FEDERATION_TABLE
from inferd.core.host import HOST_TABLE
from inferd.core.key import KEY_TABLE
from inferd.core.lease import LEASE_TABLE
from inferd.core.lifecycle import Table, diagram
from inferd.core.model import INSTANCE_TABLE, MODEL_TABLE
from inferd.core.pipeline import PIPELINE_TABLE
from inferd.core.task import TASK_TABLE
from inferd.core.training import TRAINING_TABLE
from inferd.core.version import VERSION_TABLE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("States of a task", TASK_TABLE),
        ("States of a lease", LEASE_TABLE),
        ("States of a model", MODEL_TABLE),
        ("States of a version of a model", VERSION_TABLE),
        ("States of an instance", INSTANCE_TABLE),
        ("States of a host", HOST_TABLE),
        ("States of a key", KEY_TABLE),
        ("States of an evaluation", EVALUATION_TABLE),
        ("States of a training", TRAINING_TABLE),
        ("States of a federation", FEDERATION_TABLE),
        ("States of a run of a pipeline", PIPELINE_TABLE),
    ],
)
def test_state_diagram(heading: str, table: Table[Enum, Enum]) -> None:
    """The diagram under the heading is the one that is printed from the table."""
    text = (ROOT / "docs/states.md").read_text()
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/states.md has no heading {heading!r}"
    block = f"```mermaid\n{diagram(table)}\n```\n"
    assert block in section[1], f"the section {heading!r} of docs/states.md must hold\n{block}"


def test_bounds_of_memory_exist() -> None:
    """What the documents say of what a kernel keeps names settings that exist, and every bound in bytes of all."""
    text = (ROOT / "docs/memory.md").read_text()
    named = set(re.findall(r"`(limits|leases|scheduler)\.(\w+)`", text))
    parts = {"limits": Limits, "leases": Leases, "scheduler": Scheduler}
    assert not [name for part, name in named if name not in parts[part].model_fields]
    assert {name for name in Limits.model_fields if name.endswith("_bytes")} - {"frame_bytes"} <= {n for _, n in named}


def test_interface_is_documented() -> None:
    """The page on writing a backend speaks of every public name of the interface."""
    text = (ROOT / "plugins/README.md").read_text()
    assert not [name for name in inferd.plugin.__all__ if not re.search(rf"\b{name}\b", text)]


def documents() -> list[Path]:
    named = ("README.md", "ARCHITECTURE.md", "SECURITY.md", "plugins/README.md", "deploy/README.md")
    return [*(ROOT / name for name in named), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Whatever a document links to in the repository is there."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_architecture_is_read_in_one_sitting() -> None:
    """What someone needs to find any change stays short; the rest has pages of its own."""
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150


def test_what_was_asked_for_is_shown_by_commands_and_run_by_tests() -> None:
    """Each row of the table names commands that there are, and tests that there are."""
    text = (ROOT / "README.md").read_text().partition("## What the papers asked for")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "`inferd " in line]
    assert len(rows) >= 15
    known = {command.name for command in typer.main.get_group(main.app).commands.values()}
    for asked, shown, tested in rows:
        verbs = re.findall(r"`inferd ([a-z]+)", shown)
        assert verbs, asked
        assert set(verbs) <= known, asked
        files = re.findall(r"\]\(([^)]+)\)", tested)
        assert files, asked
        assert all((ROOT / file).is_file() for file in files), asked
