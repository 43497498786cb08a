"""A conversation with a model, as `inferd run` has it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from inferd.cli.output import CommandError
from inferd.cli.transcript import Transcript
from inferd_client import AsyncClient
from inferd_client.errors import UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.output import Output
    from inferd_client import Prompt, RunOptions


def with_pictures(pictures: Sequence[str], prompt: str) -> str | list[dict[str, str]]:
    """What is said with pictures, data URLs, before a prompt."""
    if not pictures:
        return prompt
    shown = [{"type": "image", "image": url} for url in pictures]
    return [*shown, {"type": "text", "text": prompt}] if prompt else shown


class Conversation:
    """What is said to a model and what it answers.

    A model without a chat template continues plain text instead, each prompt by itself.

    Attributes:
        model: Its name.
        options: How it is run.
        system: The system message; "" for none.
        said: The messages behind it, oldest first.
        pictures: Data URLs of those that go with the next prompt.
    """

    def __init__(
        self,
        output: Output,
        address: str,
        model: str,
        options: RunOptions,
        *,
        tenant: str = "",
        system: str = "",
        raw: bool = False,
        verbose: bool = False,
    ) -> None:
        self._output = output
        self._address = address
        self._tenant = tenant
        self._raw = raw
        self._verbose = verbose
        self.model = model
        self.options = options
        self.system = system
        self.said: list[dict[str, Any]] = []
        self.pictures: list[str] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it, the system message first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def ask(self, prompt: str) -> None:
        """Show the answer to `prompt`.

        Raises:
            InferdError, CommandError: The task was refused or failed.
        """
        bound = self.options.get("max_tokens") is None
        transcript = Transcript(self._output, self.model, bound=bound, verbose=self._verbose)
        pictures, self.pictures = self.pictures, []
        said = {"role": "user", "content": with_pictures(pictures, prompt)}
        try:
            self._answer(transcript, said)
        finally:  # the part that came before Ctrl-C belongs to the conversation too
            if transcript.text:
                self.said += [said, {"role": "assistant", "content": transcript.text}]
        transcript.close()

    def _answer(self, transcript: Transcript, said: dict[str, Any]) -> None:
        try:
            self._say(transcript, said)
        except UnsupportedInputError as error:
            if error.metadata.get("instead") != "spec.infer":
                raise
            message = f"{self.model} turns tensors into tensors and reads no text"
            how = f"ask it with: inferd infer {self.model} INPUT=VALUE; inferd show {self.model} tells its inputs"
            raise CommandError(
                f"{message}; {how}", reason=error.reason, code=error.code, metadata=error.metadata
            ) from None

    def _say(self, transcript: Transcript, said: dict[str, Any]) -> None:
        if not self._raw:
            try:
                self._play(transcript, [*self.messages, said])
            except UnsupportedInputError as error:
                seen = not isinstance(said["content"], str)
                if seen or "instead" in error.metadata or self.messages or self.options.get("template_variables"):
                    raise
                self._output.note(f"{self.model} has no chat template; the text is continued as it stands")
                self._raw = True
            else:
                return
        self._play(transcript, said["content"])

    def _play(self, transcript: Transcript, prompt: Prompt) -> None:
        asyncio.run(self._follow(transcript, prompt))

    async def _follow(self, transcript: Transcript, prompt: Prompt) -> None:
        """Play a task. Ctrl-C cancels this and the call; inside the synchronous client it could leave a lock taken."""
        client = AsyncClient(self._address, tenant=self._tenant)
        async with client, aclosing(client.run(self.model, prompt, **self.options)) as events:
            await transcript.play(events)
