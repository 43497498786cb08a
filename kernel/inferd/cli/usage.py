"""Mistakes of use as JSON, where that was asked for; for people they are typer's."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from inferd.cli.output import CODES, MISUSE
from inferd.cli.visible import visible_json
from inferd.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence

# typer brings click along, or depends on it: by name it is the same in both.
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


SPELLINGS: Final = (("list", "ls"), ("rm", "remove", "delete"), ("create", "add"), ("show", "inspect"))
"""Words of one meaning: where a noun has one of them, the others are that, too."""
NOUNS: Final = {
    "datasets": "data",
    "federation": "federate",
    "federations": "federate",
    "indexes": "index",
    "indices": "index",
}


NARROW: Final = 80  # characters of a line, below which names of options have no room beside what they do
REMOVALS: Final = ("revoke", "release")
"""What a noun has instead of `rm` where its things end and are listed on."""
CHOICES: Final = re.compile(r"'(.*)' is not one of (.*)\.", re.DOTALL)


def _have_plain_help(group: TyperGroup) -> None:
    """Have the commands below tell their options in plain lines: panels cut the names for which they have no room."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            _have_plain_help(command)
        elif isinstance(command, TyperCommand):
            command.rich_markup_mode = None


class Commands(TyperGroup):
    """The commands, whose mistakes of use are told as all other errors are, and which may be spelled in usual ways."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of this name and what it is given, both as they are registered."""
        name, command, rest = super().resolve_command(ctx, [self._noun(args[0]), *args[1:]] if args else args)
        if ctx.resilient_parsing and not rest:
            return name, command, rest  # a shell asks what may follow the noun: nothing is listed yet
        return name, command, spelled(command, rest)

    def _noun(self, word: str) -> str:
        """The noun that is meant, in the singular or the plural; the word itself where none is."""
        near = (NOUNS.get(word, ""), f"{word}s", word.removesuffix("s"))
        nouns = [each for each in near if hasattr(self.commands.get(each), "commands")]
        return word if word in self.commands or not nouns else nouns[0]

    def invoke(self, ctx: Any) -> Any:
        """Run what the context holds; a value that there is not is answered with the one that was meant."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = meant(error.message)
            raise

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and end the process; the arguments are those of every click command."""
        if get_terminal_size().columns < NARROW:
            _have_plain_help(self)
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


def spelled(command: Any, words: list[str]) -> list[str]:
    """What a command is given, its verbs as they are registered; a noun alone lists what there is of it."""
    verbs = getattr(command, "commands", None)
    if verbs is None:
        return words
    if not words or (words[0].startswith("-") and not {"-h", "--help"} & set(words)):
        return ["list", *words] if command.no_args_is_help and "list" in verbs else words
    verb, *rest = words
    if verb not in verbs:
        same = next((each for each in SPELLINGS if verb in each), ())
        also = REMOVALS if "rm" in same else ()
        verb = next((each for each in (*same, *also) if each in verbs), verb)
    return [verb, *spelled(verbs.get(verb), rest)]


def meant(message: str) -> str:
    """What is said of a wrong value, without the words of the library that found it, and with the nearest right one."""
    message = message.removeprefix("Value error, ")
    if told := CHOICES.fullmatch(message):
        near = suggestion(told[1], re.findall(r"'([^']+)'", told[2]))
        return f"{message} Did you mean {near!r}?" if near else message
    return message


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
