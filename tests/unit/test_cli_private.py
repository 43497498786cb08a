"""Private kernels that start ahead of the client: where nobody can listen, and the model is known."""

import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inferd import folders
from inferd.cli import main, private
from inferd.cli.named import Wanted
from inferd.cli.private import kernel_ahead
from inferd.testing.kernel import write_fake_model


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started; nothing is."""
    starts: list[str] = []

    @contextmanager
    def start() -> Any:
        starts.append("kernel")
        yield "kernel"

    monkeypatch.setattr(private, "starting_kernel", start)
    return starts


def ahead(wanted: str, address: str, folder: Path) -> Any:
    with kernel_ahead(Wanted(name=wanted), address, lambda: folder) as kernel:
        return kernel


def test_it_starts_where_nobody_listens(started: list[str], tmp_path: Path) -> None:
    """A model that is there, and a socket that is not: a kernel is started before anything is asked."""
    assert ahead(str(write_fake_model(tmp_path)), f"unix:{tmp_path}/none", tmp_path) == "kernel"
    assert started == ["kernel"]


def test_it_does_not_start_beside_another_one(started: list[str], tmp_path: Path) -> None:
    """Where somebody listens, or where nobody can know that from here, the client asks first."""
    model = str(write_fake_model(tmp_path))
    with socket.socket(socket.AF_UNIX) as listening, tempfile.TemporaryDirectory() as folder:  # its name is short
        listening.bind(f"{folder}/k")
        listening.listen()
        own, other = f"unix:{folder}/k", f"unix:{folder}/a"
        for address in (own, "127.0.0.1:7411", "tls:host:7411", f"{other},{other}"):
            assert ahead(model, address, tmp_path) is None
    assert started == []


def test_it_starts_for_no_model_that_there_is_not(started: list[str], tmp_path: Path) -> None:
    """A name that nobody knows, and a path that leads nowhere, are told on the ordinary way."""
    for wanted in ("nobody", f"{tmp_path}/none.gguf", "hf:some/thing"):
        assert ahead(wanted, f"unix:{tmp_path}/none", tmp_path) is None
    assert started == []


def test_only_the_command_that_is_named_is_made() -> None:
    """A command, or a noun, by its name alone; whatever else is said first has all of them."""
    for words, names in ((["run", "x"], ["run"]), (["lease", "list"], ["lease"])):
        only = main.narrowed(words)
        assert [each.name for each in (*only.registered_commands, *only.registered_groups)] == names
    for others in ([], ["nobody"], ["--help"], ["leases"]):
        assert main.narrowed(others) is main.app


@pytest.mark.parametrize(("variable", "configured"), [("INFERD_TENANT", False), ("INFERD_DATA_DIR", True)])
def test_usual_folders_are_told_without_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, *, configured: bool
) -> None:
    """Only a setting, in a variable or a file, has the settings read, which takes longer than all else."""
    for name in [name for name in os.environ if name.startswith("INFERD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv(variable, str(tmp_path))
    assert folders.is_configured() is configured
    monkeypatch.delenv(variable)
    (tmp_path / "config.toml").write_text("")
    assert folders.is_configured()
