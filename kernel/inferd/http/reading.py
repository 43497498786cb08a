"""The outputs of a task on their way to a client: how they are read, and what has to be known for that."""

from __future__ import annotations

from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any

from inferd.http.speech import Speech
from inferd.http.token_texts import chat_logprobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.http.chunks import Reader
    from inferd.http.speech import Speeches
    from inferd.http.thoughts import Thoughts
    from inferd.http.token_texts import Remembered, TokenTexts
    from inferd_api.v1.task_pb2 import Output
    from inferd_client import AsyncClient


class Reading:
    """How the outputs of one task are read: known when the first one comes, as the version is that it comes of.

    Args:
        remembered: Texts of tokens.
        speeches: How answers are read.
        client: Who asks.
        model: Which model.
        options: Of the task.
        streamed: Whether calls may go out before they are whole.
    """

    def __init__(
        self,
        remembered: Remembered,
        speeches: Speeches,
        client: AsyncClient,
        model: str,
        options: Mapping[str, Any],
        *,
        streamed: bool = True,
    ) -> None:
        self._remembered = remembered
        self._speeches = speeches
        self._client = client
        self._model = model
        self._options = options
        self._streamed = streamed
        self.version = 0
        """Of the model that the last output is of; 0 where that is not known."""
        self._texts: TokenTexts | None = None
        self._speech = Speech()

    async def look_up(self, output: Output, version: int) -> Mapping[str, Any] | None:
        """Ask for what is needed to read an output; its log probabilities, where it has some.

        Raises:
            InferdError: As of `model_writing`.
        """
        if self._texts is None:
            self._texts = self._remembered.of(self._client, self._model, version)
            self._speech = await self._speeches.of(
                self._client, self._model, version, self._options, streamed=self._streamed
            )
        if self._speech.names:
            await self._texts.load_ids(output.token_ids)
        if not output.logprobs:
            return None
        await self._texts.load(output.logprobs)
        return chat_logprobs(output.logprobs, self._texts)

    async def count_thoughts(self, samples: Sequence[Thoughts]) -> int:
        """How many tokens of these samples of the task are thoughts."""
        return 0 if self._texts is None else await self._texts.count_thoughts(samples)

    def reader(self) -> Reader:
        """A reader of one sample."""
        return self._speech.reader(self._texts)

    def reader_of(self, task_id: str) -> Reader:
        """A reader of the only sample of a task, of which each reader gives the same ids to the same calls."""
        numbers = count()
        return self._speech.reader(self._texts, lambda: _id_of(f"{task_id}/{next(numbers)}"))


def _id_of(text: str) -> str:
    """Nine letters and digits that follow from a text."""
    return sha256(text.encode()).hexdigest()[:9]
