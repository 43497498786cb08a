"""The manual of `inferd`, made from its commands: pages for man(1), and a page of documentation.

`python -m inferd.cli.manual FOLDER` writes the pages, and what shells are told, as they lie below `share` of an
installation. It imports what `--help` imports, no more.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from inferd import __version__
from inferd.cli.completion import Shell, script_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROGRAM: Final = "inferd"
MARKUP: Final = re.compile(r"\\\[")  # how rich writes a bracket that is one

VARIABLES: Final = (
    ("INFERD_ADDRESS", "Where the kernel is, as --address."),
    ("INFERD_TENANT", "Whose tasks are meant, as --tenant."),
    ("INFERD_CREDENTIAL_FILE", "A file of mode 0600 with a key or a token, as --credential-file."),
    ("INFERD_CA_FILE, INFERD_CERT_FILE, INFERD_KEY_FILE", "Files of TLS, as the options of these names."),
    ("INFERD_PATIENCE_S", "How long a kernel that is away is waited for, in seconds; 30 by default, or inf."),
    ("INFERD_CONFIG", "The configuration, a TOML file."),
    ("INFERD_GROUP__NAME", "Any setting of a kernel: `inferd config show` lists them."),
)
EXITS: Final = (
    ("0", "It is done."),
    ("1", "It cannot be done; the error says why and what to do."),
    ("2", "A mistake of use."),
    ("75", "inferd lease run: the lease was lost."),
    ("130", "Ctrl-C ended it."),
)


@dataclass(frozen=True, slots=True)
class Word:
    """An argument or an option.

    Attributes:
        names: How it is written, options with their dashes, the long one first.
        value: What stands for its value; "" for none.
        about: What it is, for people.
        needed: Whether it must be given.
        many: Whether it may be given several times.
    """

    names: tuple[str, ...]
    value: str
    about: str
    needed: bool
    many: bool

    @property
    def is_option(self) -> bool:
        """Whether it is no argument."""
        return self.names[0].startswith("-")


@dataclass(frozen=True, slots=True)
class Verb:
    """A command, or a noun with commands below it.

    Attributes:
        path: The words by which it is called, `inferd` first.
        about: What it does, for people.
        words: Its arguments and options.
        below: The commands below it.
    """

    path: tuple[str, ...]
    about: str
    words: tuple[Word, ...]
    below: tuple[Verb, ...]

    @property
    def name(self) -> str:
        """How it is called."""
        return " ".join(self.path)

    def all(self) -> Iterator[Verb]:
        """Itself, and what is below it."""
        yield self
        for each in self.below:
            yield from each.all()

    def synopsis(self) -> list[str]:
        """How it is written, word by word."""
        written = ["[OPTIONS]"] if any(word.is_option for word in self.words) else []
        for word in self.words:
            if not word.is_option:
                dots = "…" if word.many else ""
                written.append(f"{word.value}{dots}" if word.needed else f"[{word.value}{dots}]")
        return [*written, "COMMAND"] if self.below else written


def program() -> Verb:
    """All commands, as they are now."""
    from inferd.cli.main import app  # noqa: PLC0415 - it imports what imports this

    return _verb(typer.main.get_command(app), (PROGRAM,))


def _verb(command: Any, path: tuple[str, ...]) -> Verb:
    below = [(name, each) for name, each in sorted(getattr(command, "commands", {}).items()) if not each.hidden]
    return Verb(
        path=path,
        about=_plain(command.help or ""),
        words=tuple(_word(each) for each in command.params if not getattr(each, "hidden", False)),
        below=tuple(_verb(each, (*path, name)) for name, each in below),
    )


def _word(parameter: Any) -> Word:
    names = sorted(parameter.opts, key=len, reverse=True) + list(parameter.secondary_opts)
    flag = bool(getattr(parameter, "is_flag", False))
    many = bool(getattr(parameter, "multiple", False)) or parameter.nargs < 0
    value = "" if flag else parameter.metavar or "|".join(_choices(parameter)) or parameter.name.upper()
    return Word(
        tuple(names), value.strip("[]").removesuffix("..."), _plain(parameter.help or ""), parameter.required, many
    )


def _choices(parameter: Any) -> list[str]:
    """What a parameter may be, where that is a few words; by the one way or the other of typer's versions."""
    told = getattr(getattr(parameter, "type", None), "choices", None)
    if told is None:
        text = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
        kinds = [text, *getattr(text, "__args__", ())]
        told = next((list(kind) for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)), ())
    return [str(each.value if isinstance(each, Enum) else each) for each in told]


def _plain(text: str) -> str:
    return MARKUP.sub("[", " ".join(text.split()))


def pages() -> dict[str, str]:
    """The pages for man(1), by the names of their files: one of the program, one of each command or noun."""
    root = program()
    names = [f"{PROGRAM}-{each.path[-1]}" for each in root.below]
    made = {f"{PROGRAM}.1": "\n".join([*_head(root), *_overview(root), *_see(names)])}
    for each in root.below:
        made[f"{PROGRAM}-{each.path[-1]}.1"] = "\n".join([*_head(each), *_details(each), *_see([PROGRAM])])
    return made


def _head(verb: Verb) -> list[str]:
    title = "-".join(verb.path)
    return [
        f'.TH "{_roff(title.upper())}" "1" "" "{PROGRAM} {__version__}" "User commands"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(verb.about.partition('. ')[0].removesuffix('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_roff(verb.name)}\\fR {_roff(' '.join(verb.synopsis()))}",
        ".SH DESCRIPTION",
        _roff(verb.about),
    ]


def _overview(root: Verb) -> list[str]:
    lines = [*_options(root), ".SH COMMANDS"]
    for each in root.below:
        lines += [".TP", f"\\fB{_roff(each.name)}\\fR", _roff(each.about)]
    for title, rows in (("ENVIRONMENT", VARIABLES), ("EXIT STATUS", EXITS)):
        lines.append(f".SH {title}")
        for name, about in rows:
            lines += [".TP", f"\\fB{_roff(name)}\\fR", _roff(about)]
    return lines


def _details(verb: Verb) -> list[str]:
    lines = _options(verb)
    if verb.below:
        lines.append(".SH COMMANDS")
    for each in list(verb.all())[1:]:
        lines += [f".SS {_roff(each.name)} {_roff(' '.join(each.synopsis()))}", _roff(each.about), *_words(each)]
    return lines


def _options(verb: Verb) -> list[str]:
    written = _words(verb)
    return [".SH OPTIONS", *written] if written else []


def _words(verb: Verb) -> list[str]:
    lines = []
    for word in verb.words:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in word.names) if word.is_option else ""
        value = f"\\fI{_roff(word.value)}\\fR" if word.value else ""
        lines += [".TP", f"{names} {value}".strip(), _roff(word.about)]
    return lines


def _see(names: Iterable[str]) -> list[str]:
    return [".SH SEE ALSO", ", ".join(f"\\fB{_roff(name)}\\fR(1)" for name in names), ""]


def _roff(text: str) -> str:
    """A text as roff has it: no command in it, hyphens that can be searched for."""
    written = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{written}" if written.startswith((".", "'")) else written or "\\&"


def document() -> str:
    """The page of documentation, in Markdown."""
    root = program()
    lines = [
        "# The command line",
        "",
        "Made from the commands by `make docs`; `inferd COMMAND --help` and `man inferd-COMMAND` say the same.",
        "",
        "`ls` is `list`, `remove` and `delete` are `rm`, `add` is `create` where a noun has one of them alone.",
        "A noun may be in the singular or the plural, and alone it lists what there is of it.",
        "",
    ]
    for each in root.all():
        level = "#" * min(4, 1 + len(each.path))
        lines += [f"{level} `{each.name}`", "", _markdown(each.about), ""]
        lines += ["```", " ".join([each.name, *each.synopsis()]), "```", ""]
        if each.words:
            lines += ["| | |", "|---|---|"]
            lines += [f"| {_names(word)} | {_markdown(word.about)} |" for word in each.words]
            lines.append("")
    for title, rows in (("Environment", VARIABLES), ("Exit status", EXITS)):
        lines += [f"## {title}", "", "| | |", "|---|---|", *(f"| `{name}` | {about} |" for name, about in rows), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _names(word: Word) -> str:
    names = list(word.names) if word.is_option else []
    written = ", ".join(f"`{name}`" for name in names)
    return f"{written} `{word.value}`".strip().replace("|", "\\|") if word.value else written


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


FILES: Final = {
    Shell.BASH: "bash-completion/completions/inferd",
    Shell.ZSH: "zsh/site-functions/_inferd",
    Shell.FISH: "fish/vendor_completions.d/inferd.fish",
}
"""Where shells look below `share` for what completes a program."""


def files() -> dict[str, str]:
    """What belongs below the folder `share` of an installation: pages for man(1), and what shells are told."""
    shells = {path: f"{script_of(shell)}\n" for shell, path in FILES.items()}
    return {f"man/man1/{name}": text for name, text in pages().items()} | shells


def write(folder: Path) -> None:
    """Write these files into a folder."""
    for name, text in files().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
