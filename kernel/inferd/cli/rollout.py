"""What a new version has to show, from files and words of the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer
from google.protobuf.json_format import ParseDict, ParseError

from inferd_api.v1.rollout_pb2 import Canary, CanaryStep, Probe

MOST_BYTES = 1 << 20  # of a file: as much as any kernel takes
REASON = "FINISH_REASON_"


def read_probe(path: Path | None) -> Probe | None:
    """A probe from a TOML file, whose tables `[[prompts]]` have the fields of `inferd.v1.ProbePrompt`; None for none.

    Raises:
        typer.BadParameter: It cannot be read, is no TOML, or says what a probe has not.
    """
    if path is None:
        return None
    given = _read_toml(path, "--probe")
    for prompt in given.get("prompts", ()):
        if isinstance(prompt, dict) and isinstance(reason := prompt.get("finish_reason"), str):
            prompt["finish_reason"] = REASON + reason.upper().removeprefix(REASON)
    try:
        return ParseDict(given, Probe())
    except ParseError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--probe") from None


def read_canary(text: str) -> Canary | None:
    """Steps as shares, "5%,25%,100%", or a TOML file with the fields of `inferd.v1.Canary`; None for none.

    Raises:
        typer.BadParameter: It is neither, or a share is none or does not rise.
    """
    if not text:
        return None
    if text.endswith(".toml"):
        try:
            return ParseDict(_read_toml(Path(text), "--canary"), Canary())
        except ParseError as error:
            raise typer.BadParameter(f"{text}: {error}", param_hint="--canary") from None
    try:
        shares = [_share(each.strip()) for each in text.split(",")]
    except ValueError:
        message = f"{text!r} is neither a FILE.toml nor shares as 5%,25%,100%"
        raise typer.BadParameter(message, param_hint="--canary") from None
    before = 0.0
    for number, share in enumerate(shares, 1):
        if not before < share <= 1:
            message = (
                f"step {number} of {text!r} is {share:.4g} of the new tasks; it must be above {before:.4g}, to 1 (100%)"
            )
            raise typer.BadParameter(message, param_hint="--canary")
        before = share
    return Canary(steps=[CanaryStep(share=share) for share in shares])


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


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
