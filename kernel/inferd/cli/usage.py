"""Mistakes of use as JSON, where that was asked for; for people they are typer's."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from inferd.cli.output import CODES, MISUSE
from inferd.cli.visible import visible_json

if TYPE_CHECKING:
    from collections.abc import Sequence

# typer brings click along, or depends on it: by name it is the same in both.
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Commands(TyperGroup):
    """The commands, whose mistakes of use are told as all other errors are."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and end the process; the arguments are those of every click command."""
        words = args[0] if args else options.get("args")
        given = list(sys.argv[1:] if words is None else words)
        if not wants_json(given):
            return super().main(*args, **options)
        try:
            code = super().main(*args, **(options | {"standalone_mode": False}))
        except _ClickError as error:
            tell(error, on_stderr=given[:2] == ["lease", "run"])
            code = MISUSE
        except typer.Abort:
            code = 1
        sys.exit(code or 0)


class ModelCommands(TyperGroup):
    """The commands of `inferd models`. Who means one of `inferd` itself is told that one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of this name; an error names the one that is meant."""
        try:
            return super().resolve_command(ctx, args)
        except _ClickError as error:
            above = getattr(ctx.find_root().command, "commands", {})
            if args and args[0] in above:
                error.message = f"No such command {args[0]!r}. It is: inferd {args[0]}"
            raise


def wants_json(given: Sequence[str]) -> bool:
    """Whether JSON is asked for, as far as that can be told without knowing the command."""
    words = list(given[: given.index("--")] if "--" in given else given)
    asked = [value for option, value in pairwise(words) if option in ("-o", "--output")]
    asked += [word.partition("=")[2] for word in words if word.startswith("--output=")]
    asked += [word[2:].removeprefix("=") for word in words if word.startswith("-o") and len(word) > len("-o")]
    return asked[-1:] == ["json"]


def tell(error: Any, *, on_stderr: bool) -> None:
    """Tell a mistake of use as one JSON object."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    hint = getattr(error, "param_hint", None) or (parameter.opts if parameter is not None else "")
    facts = {
        "command": context.command_path if context is not None else "",
        "parameter": hint if isinstance(hint, str) else " / ".join(hint),
    }
    metadata = {name: value for name, value in facts.items() if value}
    told = {"reason": "USAGE", "code": CODES["USAGE"], "message": error.format_message(), "metadata": metadata}
    stream = sys.stderr if on_stderr else sys.stdout
    stream.write(visible_json(json.dumps({"error": told})) + "\n")
    stream.flush()
