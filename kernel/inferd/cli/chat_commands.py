"""The commands of a conversation."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inferd.cli.inputs import MOST_BYTES, compose, read_image, read_text
from inferd.cli.sampling import READERS, read_value
from inferd.errors import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.cli.chat import Chat

FORM = re.compile(r"/([A-Za-z?]+)(?:[ \t]+(.*))?")
VARIABLE = "var."
ROLES = frozenset({"system", "user", "assistant", "tool"})


class Leave(Exception):  # noqa: N818 - no error
    """The conversation is over."""


class BadCommandError(Exception):
    """A command is not known or cannot be meant; the message is for people."""


class Command(NamedTuple):
    """A command that was typed."""

    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a command is: how it is written, what it does, in words and in fact."""

    form: str
    words: str
    act: Callable[[Chat, str], None]


def find(message: str) -> Command | None:
    """The command that a message is; None for what is said to the model.

    Raises:
        BadCommandError: It looks like a command, and there is none of this name.
    """
    found = FORM.fullmatch(message.strip())
    if found is None or "\n" in message.strip():
        return None
    name, argument = found[1].lower(), (found[2] or "").strip()
    name = ALIASES.get(name, name)
    if name in COMMANDS:
        return Command(name, argument)
    near = suggestion(name, list(COMMANDS))
    hint = f"did you mean /{near}?" if near else "/help tells them"
    raise BadCommandError(f"there is no command /{name}; {hint} A message that begins with / is written with //")


def _help(chat: Chat, _: str) -> None:
    width = max(len(meaning.form) for meaning in COMMANDS.values())
    for meaning in COMMANDS.values():
        chat.output.text(f"{meaning.form:<{width}}  {meaning.words}")
    chat.output.text('"""  begins and ends a message of several lines; pasted lines are one message')
    chat.output.text("Ctrl-C  ends an answer; twice at an empty prompt the conversation, as Ctrl-D does")


def _clear(chat: Chat, _: str) -> None:
    chat.conversation.said.clear()
    chat.attached = ""
    chat.output.note("forgotten; the system message stays")


def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.conversation.system = "" if argument == '""' else argument
    told = chat.conversation.system
    chat.output.note(f"the system message is: {told}" if told else "there is no system message")


def _set(chat: Chat, argument: str) -> None:
    name, _, text = argument.replace("=", " ", 1).partition(" ") if argument else ("", "", "")
    text = text.strip()
    options: dict[str, Any] = chat.conversation.options  # type: ignore[assignment] # by names that are checked here
    if name.startswith(VARIABLE) and name != VARIABLE:
        variables = dict(options.get("template_variables") or {})
        variables.pop(name.removeprefix(VARIABLE), None)
        if text:
            variables[name.removeprefix(VARIABLE)] = read_value(text)
        options["template_variables"] = variables
    elif name in READERS:
        options[name] = _read(name, text) if text else None
    elif name:
        near = suggestion(name, list(READERS))
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(READERS)}."
        variable = f"a variable of the template is set with /set {VARIABLE}{name} VALUE"
        raise BadCommandError(f"there is no option {name!r}; {hint} ({variable})")
    told = [f"{name}={options[name]}" for name in READERS if options.get(name) not in (None, ())]
    told += [f"{VARIABLE}{name}={value}" for name, value in (options.get("template_variables") or {}).items()]
    chat.output.note(", ".join(told) or "all is the model's own")


def _read(name: str, text: str) -> Any:
    try:
        return READERS[name](text)
    except ValueError:
        raise BadCommandError(f"{text!r} is no value of {name}") from None


def _file(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadCommandError("name a file: /file PATH")
    chat.attached = compose(chat.attached, read_text(Path(argument)))
    chat.output.note(f"{argument} goes along with the next message")


def _image(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadCommandError("name a file: /image PATH")
    chat.conversation.pictures.append(read_image(Path(argument)))
    chat.output.note(f"{argument} goes along with the next message")


def _save(chat: Chat, argument: str) -> None:
    path = Path(argument).expanduser() if argument else chat.path
    if path is None:
        raise BadCommandError("name a file: /save PATH")
    document = {"model": chat.conversation.model, "messages": chat.conversation.messages}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    new = path != chat.path
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC), 0o600)
    except FileExistsError:
        raise BadCommandError(f"{path} is there already; choose another name, or load it first") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    chat.path = path
    chat.output.note(f"saved to {path}")


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadCommandError("name a file: /load PATH")
    path = Path(argument).expanduser()
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    messages = _messages(data, path)
    system = [each["content"] for each in messages if each["role"] == "system"]
    chat.conversation.system = system[0] if messages and messages[0]["role"] == "system" else ""
    chat.conversation.said = messages[1:] if chat.conversation.system else messages
    chat.path = path
    chat.output.note(f"{len(messages)} messages loaded")


def _messages(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The messages of a saved conversation, checked."""
    wrong = BadCommandError(f"{path} is no conversation that /save wrote")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise wrong from None
    messages = document.get("messages") if isinstance(document, dict) else None
    if len(data) > MOST_BYTES or not isinstance(messages, list):
        raise wrong
    for message in messages:
        whole = isinstance(message, dict) and set(message) == {"role", "content"}
        if not whole or message["role"] not in ROLES or not _is_content(message["content"]):
            raise wrong
    return messages


def _is_content(content: object) -> bool:
    """Whether something is a text, or texts and pictures as `with_pictures` has them."""
    if not isinstance(content, list):
        return isinstance(content, str)
    return bool(content) and all(
        isinstance(part, dict)
        and part.get("type") in ("text", "image")
        and set(part) == {"type", part["type"]}
        and isinstance(part[part["type"]], str)
        for part in content
    )


def _exit(_: Chat, __: str) -> None:
    raise Leave


COMMANDS: Mapping[str, Meaning] = {
    "help": Meaning("/help", "tell the commands", _help),
    "clear": Meaning("/clear", "forget what was said; the system message stays", _clear),
    "system": Meaning("/system [TEXT]", 'tell or set the system message; "" for none', _system),
    "set": Meaning(
        "/set [NAME [VALUE]]", f"tell or set options, as temperature 0.2 or {VARIABLE}NAME of the template", _set
    ),
    "file": Meaning("/file PATH", "send a text file along with the next message", _file),
    "image": Meaning("/image PATH", "send a picture along with the next message", _image),
    "save": Meaning("/save [PATH]", "write the conversation to a file", _save),
    "load": Meaning("/load PATH", "go on with a conversation that was saved", _load),
    "exit": Meaning("/exit", "end the conversation", _exit),
}
"""By name."""

ALIASES: Mapping[str, str] = {"bye": "exit", "quit": "exit", "q": "exit", "?": "help"}
