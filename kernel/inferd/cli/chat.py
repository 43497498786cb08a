"""A conversation on a terminal: what is typed is a message, or a command that begins with `/`."""

from __future__ import annotations

import readline
import sys
from typing import TYPE_CHECKING

import typer

from inferd.cli.chat_commands import COMMANDS, BadCommandError, Leave, find
from inferd.cli.history import History
from inferd.cli.inputs import compose
from inferd.cli.output import CommandError, command_error
from inferd.cli.settings import read_settings
from inferd_client.errors import InferdError

if TYPE_CHECKING:
    from pathlib import Path

    from inferd.cli.conversation import Conversation
    from inferd.cli.output import Output

PROMPT, MORE = ">>> ", "... "
QUOTES = '"""'


class Chat:
    """Reads messages and commands, until the end of the input, `/exit`, or Ctrl-C twice at an empty prompt.

    Args:
        output: Where all is told.
        conversation: With whom.
        attached: A text that goes along with the first message.

    Attributes:
        output: See there.
        conversation: See there.
        attached: What goes along with the next message.
        path: Where the conversation was saved to or loaded from; None while it was not.
    """

    def __init__(self, output: Output, conversation: Conversation, *, attached: str = "") -> None:
        self.output = output
        self.conversation = conversation
        self.attached = attached
        self.path: Path | None = None
        self._history = _history()
        self._shown = sys.stdout.isatty()  # else the prompt would become part of what is written there

    def run(self) -> None:
        """Converse."""
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.set_auto_history(False)
        for entry in self._history.read() if self._history else ():
            readline.add_history(entry)
        self.output.note("/help tells the commands; Ctrl-D ends the conversation")
        while (message := self._read()) is not None:
            if not message.strip():
                continue
            self._remember(message)
            try:
                self._read_line(message)
            except Leave:
                return
        self.output.text("")

    def _read_line(self, message: str) -> None:
        """Do what a command says, or ask; what goes wrong does not end the conversation."""
        try:
            command = find(message)
            if command is not None:
                COMMANDS[command.name].act(self, command.argument)
                return
            self._ask(message.removeprefix("/") if message.startswith("//") else message)
        except KeyboardInterrupt:
            self.output.note("cancelled")
        except (InferdError, CommandError) as error:
            self.output.error(command_error(error))
        except (BadCommandError, typer.BadParameter) as error:
            self.output.error(CommandError(str(error), reason="USAGE"))
        except UnicodeError:
            self.output.error(CommandError("that is no text: it has bytes that are not UTF-8", reason="USAGE"))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            self.output.error(CommandError(what, reason="SYSTEM_ERROR"))

    def _ask(self, message: str) -> None:
        """Ask, with what goes along; that waits for another message where nothing came back."""
        before = len(self.conversation.said)
        try:
            self.conversation.ask(compose(message, self.attached))
        finally:
            if len(self.conversation.said) > before:
                self.attached = ""

    def _read(self) -> str | None:
        """The next message; None at the end of the input, or when Ctrl-C says twice that it is over."""
        told = False
        while True:
            try:
                line = self._line(PROMPT)
                return self._quoted(line.lstrip()[len(QUOTES) :]) if line.lstrip().startswith(QUOTES) else line
            except EOFError:
                return None
            except UnicodeDecodeError:
                self.output.error(CommandError("what was typed is not UTF-8", reason="USAGE"))
            except KeyboardInterrupt:
                empty = not readline.get_line_buffer()
                if told and empty:
                    return None
                told = empty
                self.output.text("")
                if empty:
                    self.output.note("Ctrl-C once more, Ctrl-D or /exit end the conversation")

    def _quoted(self, line: str) -> str:
        """A message of several lines, up to the closing quotes."""
        lines = [line]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(self._line(MORE))
        lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._shown:
            return input(prompt)
        self.output.console.print(prompt, end="")
        return input()

    def _remember(self, message: str) -> None:
        readline.add_history(message)
        if self._history is not None:
            self._history.add(message)


def _history() -> History | None:
    """The history of this user; None where the settings do not say where it is."""
    try:
        return History(read_settings().state_dir / "history.jsonl")
    except CommandError:
        return None
