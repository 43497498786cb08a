"""`inferd run`: one answer, or a conversation."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from inferd.cli.kernel import connected_or_private
from inferd.cli.output import CommandError, command_error
from inferd.cli.transcript import Transcript
from inferd.cli.wanted import Wanted, check, resolve
from inferd_client.errors import InferdError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_client import Client, Prompt, RunOptions


class Conversation:
    """What is said to a model and what it answers.

    A model without a chat template continues plain text instead, each prompt by itself.
    """

    def __init__(
        self, output: Output, client: Client, model: str, options: RunOptions, *, system: str, raw: bool
    ) -> None:
        self._output = output
        self._client = client
        self._model = model
        self._options = options
        self._messages = [{"role": "system", "content": system}] if system else []
        self._raw = raw

    def ask(self, prompt: str) -> None:
        """Show the answer to `prompt`.

        Raises:
            InferdError, CommandError: The task was refused or failed.
        """
        bound = self._options.get("max_tokens") is None
        transcript = Transcript(self._output, self._model, bound=bound)
        said = {"role": "user", "content": prompt}
        try:
            self._answer(transcript, said)
        finally:  # the part that came before Ctrl-C belongs to the conversation too
            if transcript.text:
                self._messages += [said, {"role": "assistant", "content": transcript.text}]
        transcript.close()

    def _answer(self, transcript: Transcript, said: dict[str, str]) -> None:
        if not self._raw:
            try:
                self._play(transcript, [*self._messages, said])
            except UnsupportedInputError:
                if self._messages or self._options.get("template_variables"):
                    raise
                self._output.note(f"{self._model} has no chat template; the text is continued as it stands")
                self._raw = True
            else:
                return
        self._play(transcript, said["content"])

    def _play(self, transcript: Transcript, prompt: Prompt) -> None:
        with closing(self._client.run(self._model, prompt, **self._options)) as events:
            transcript.play(events)


def run(
    output: Output,
    wanted: Wanted,
    prompt: str | None,
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    system: str,
    raw: bool,
    options: RunOptions,
) -> None:
    """Run a model on `prompt`; without one, on stdin, or in a conversation where that is a terminal."""
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    if raw and system:
        raise typer.BadParameter(
            "a system message needs the chat template, which --raw leaves out", param_hint="--system"
        )
    wanted.path()  # is no model where a path leads, no kernel is asked
    with connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir)) as client:
        name = resolve(client, wanted, data_dir)
        conversation = Conversation(output, client, name, options, system=system, raw=raw)
        if prompt is not None:
            conversation.ask(prompt)
        else:
            converse(output, conversation)


def converse(output: Output, conversation: Conversation) -> None:
    """Ask what is typed until the end of the input; Ctrl-C ends an answer, at the prompt the conversation."""
    import readline  # noqa: F401, PLC0415 - gives `input` a history; told of only where there is a terminal

    output.note("Ctrl-D ends the conversation")
    while True:
        try:
            prompt = input(">>> ")
        except EOFError:
            output.text("")
            return
        if not prompt.strip():
            continue
        try:
            conversation.ask(prompt)
        except KeyboardInterrupt:
            output.note("cancelled")
        except (InferdError, CommandError) as error:
            output.error(command_error(error))
