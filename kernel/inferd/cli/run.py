"""`inferd run`: one answer, or a conversation."""

from __future__ import annotations

import hashlib
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from inferd.cli.catalogue import CATALOGUE
from inferd.cli.kernel import connected_or_private
from inferd.cli.output import CommandError, command_error
from inferd.cli.source import model_name
from inferd.cli.transcript import Transcript
from inferd.errors import suggestion
from inferd.runtime.library import Library
from inferd_client.errors import InferdError, ModelExistsError, ModelNotFoundError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.cli.output import Output
    from inferd_client import Client, Prompt, RunOptions

TAG_CHARACTERS = 8


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
    model: str,
    prompt: str | None,
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    system: str,
    raw: bool,
    options: RunOptions,
) -> None:
    """Run `model` on `prompt`; without one, on stdin, or in a conversation where that is a terminal."""
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    if raw and system:
        raise typer.BadParameter(
            "a system message needs the chat template, which --raw leaves out", param_hint="--system"
        )
    with connected_or_private(output, address, tenant) as client:
        name = resolve(client, model, data_dir)
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


def resolve(client: Client, model: str, data_dir: Callable[[], Path]) -> str:
    """The kernel's name for `model`, made known to it where it is a file or was pulled since the kernel started.

    Raises:
        CommandError: It is neither; the message says how to get it.
    """
    path = Path(model).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return _create_from_file(client, path.absolute())
    if path.suffix == ".gguf":
        raise CommandError(f"there is no file {path}", reason="MODEL_NOT_FOUND")
    try:
        return client.get_model(model).name
    except ModelNotFoundError as error:
        library = Library(data_dir())
        return _create_from_library(client, library, model) or _give_up(library, model, error)


def _create_from_file(client: Client, path: Path) -> str:
    name = model_name(f"{path.name}.folder" if path.is_dir() else path.name)  # the dot in a folder's name is no ending
    try:
        return client.create_model(name, str(path)).name
    except ModelExistsError:  # of another file with this stem
        tag = hashlib.sha256(str(path).encode()).hexdigest()[:TAG_CHARACTERS]
        return client.create_model(f"{name}:{tag}", str(path)).name


def _create_from_library(client: Client, library: Library, name: str) -> str:
    manifest = library.find(name)
    if manifest is None:
        return ""
    source = str(library.path(manifest))
    return client.create_model(name, source, backend=manifest.backend, settings=manifest.settings).name


def _give_up(library: Library, name: str, error: InferdError) -> str:
    if name in CATALOGUE:
        message = f"{name} is not pulled; get it with: inferd pull {name}"
        raise CommandError(message, reason="MODEL_NOT_PULLED") from None
    pulled = [manifest.name for manifest in library.manifests()]
    near = "" if "suggestion" in error.metadata else suggestion(name, [*pulled, *CATALOGUE])
    hint = f"; did you mean {near!r}?" if near else ""
    raise CommandError(error.message + hint, reason=error.reason, code=error.code, metadata=error.metadata) from None
