"""What a new version has to show, from files and words of the command line."""

from __future__ import annotations

import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inferd.errors import InvalidFieldError
from inferd.services.written_terms import canary_of, probe_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.cli.output import Output
    from inferd_api.v1.model_pb2 import Model
    from inferd_api.v1.rollout_pb2 import Canary, Probe
    from inferd_client import Client

MOST_BYTES = 1 << 20  # of a file: as much as any kernel takes


def read_probe(path: Path | None) -> Probe | None:
    """A probe from a TOML file, whose tables `[[prompts]]` have the fields of `inferd.v1.ProbePrompt`; None for none.

    Raises:
        typer.BadParameter: It cannot be read, is no TOML, or says what a probe has not.
    """
    if path is None:
        return None
    try:
        return probe_of(_read_toml(path, "--probe"))
    except InvalidFieldError as error:
        raise typer.BadParameter(f"{path}, {error.field}: {error.message}", param_hint="--probe") from None


def read_canary(text: str) -> Canary | None:
    """Steps as shares, "5%,25%,100%", or a TOML file with the fields of `inferd.v1.Canary`; None for none.

    Raises:
        typer.BadParameter: It is neither, or a share is none or does not rise.
    """
    if not text:
        return None
    given = _read_toml(Path(text), "--canary") if text.endswith(".toml") else text
    try:
        return canary_of(given)
    except InvalidFieldError as error:
        if given is not text:
            raise typer.BadParameter(f"{text}, {error.field}: {error.message}", param_hint="--canary") from None
        hint = "" if error.message.startswith("step ") else ", and no FILE.toml"
        raise typer.BadParameter(f"{error.message}{hint}", param_hint="--canary") from None


@contextmanager
def leaving(output: Output, client: Client, name: str) -> Iterator[None]:
    """Where Ctrl-C ends the wait for a rollout, tell that the rollout goes on, and how it is followed and given up."""
    try:
        yield
    except KeyboardInterrupt:  # again meanwhile: that ends the command, and nothing is told
        model = client.get_model(name)
        if model.HasField("rolling"):
            number, followed = model.rolling.number, f"inferd models versions {model.name}"
            output.note(
                f"the rollout of version {number} of {model.name} goes on; follow it with: {followed}; give it up with:"
                f" {_given_up(model)}"
            )
        raise


def _given_up(model: Model) -> str:
    """The command that gives the rollout of a model up."""
    own = [each.instance_id for each in model.instances if each.version == model.rolling.number]
    return f"inferd unload {model.name}{f' --instance {own[0]}' if own else ''}"


def _read_toml(path: Path, option: str) -> dict[str, Any]:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise typer.BadParameter(f"{path} has more than {MOST_BYTES} bytes", param_hint=option)
        return tomllib.loads(data.decode())
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint=option) from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise typer.BadParameter(f"{path} is not TOML: {error}", param_hint=option) from None
