"""What single tokens are, for log probabilities and calls of tools: asked for once and remembered."""

from __future__ import annotations

from codecs import getincrementaldecoder
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd.http.thoughts import Thoughts
    from inferd_api.v1.model_service_pb2 import ModelWriting
    from inferd_api.v1.task_pb2 import TokenLogprobs
    from inferd_client import AsyncClient


class Model(NamedTuple):
    """A version of a model, as one caller knows it: nobody is told what only others may know."""

    client: AsyncClient
    name: str
    version: int


class Remembered:
    """Pieces of tokens and writings of models that were asked for; the oldest go. One writer: the gateway's loop.

    Args:
        most: Pieces at most, over all models.
        most_writings: Writings at most.
    """

    def __init__(self, most: int, most_writings: int) -> None:
        self._most = most
        self._most_writings = most_writings
        self._pieces: dict[tuple[Model, int], bytes] = {}
        self._writings: dict[Model, ModelWriting] = {}

    def of(self, client: AsyncClient, model: str, version: int) -> TokenTexts:
        """What the tokens of a model are."""
        return TokenTexts(self, Model(client, model, version))

    async def writing(self, client: AsyncClient, model: str, version: int) -> ModelWriting:
        """How a model's texts are written.

        Raises:
            InferdError: As the client's `model_writing`.
        """
        key = Model(client, model, version)
        if key not in self._writings:
            told = await client.model_writing(model)
            if len(self._writings) >= self._most_writings:
                del self._writings[next(iter(self._writings))]
            self._writings[key] = told
        return self._writings[key]

    def forget(self, client: AsyncClient) -> None:
        """Forget what was told to a client that is closed."""
        self._pieces = {key: piece for key, piece in self._pieces.items() if key[0].client != client}
        self._writings = {key: told for key, told in self._writings.items() if key.client != client}

    def get(self, model: Model, token_id: int) -> bytes | None:
        """A piece, if it is remembered."""
        return self._pieces.get((model, token_id))

    def put(self, model: Model, token_id: int, piece: bytes) -> None:
        """Remember a piece."""
        if len(self._pieces) >= self._most:
            del self._pieces[next(iter(self._pieces))]
        self._pieces[model, token_id] = piece


class TokenTexts:
    """The pieces of a model's tokens.

    Args:
        remembered: Those that are known.
        model: Whose they are.
    """

    def __init__(self, remembered: Remembered, model: Model) -> None:
        self._remembered = remembered
        self._model = model

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text."""
        return self._remembered.get(self._model, token_id) or b""

    def __getitem__(self, token_id: int) -> str:
        return self.piece(token_id).decode(errors="replace")

    async def load(self, logprobs: Iterable[TokenLogprobs]) -> None:
        """Ask for those that these tell of and that are not known."""
        ones = list(logprobs)
        await self.load_ids([one.token_id for one in ones] + [top.token_id for one in ones for top in one.top])

    async def count_thoughts(self, samples: Iterable[Thoughts]) -> int:
        """How many tokens of some samples are thoughts."""
        thinking = [sample for sample in samples if sample]
        await self.load_ids(token_id for sample in thinking for token_id in sample.token_ids)
        return sum(sample.count(self.piece) for sample in thinking)

    async def load_ids(self, ids: Iterable[int]) -> None:
        """The same for tokens by their ids."""
        lacking = [token_id for token_id in sorted(set(ids)) if self._remembered.get(self._model, token_id) is None]
        if not lacking:
            return
        pieces = await self._model.client.token_pieces(self._model.name, lacking)
        for token_id, piece in zip(lacking, pieces, strict=False):  # an older kernel tells none
            self._remembered.put(self._model, token_id, piece)


def chat_logprobs(logprobs: Sequence[TokenLogprobs], texts: TokenTexts) -> dict[str, Any]:
    """Log probabilities as chats have them."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token": texts[token_id], "logprob": logprob, "bytes": list(texts.piece(token_id))}

    return {
        "content": [
            {**one(each.token_id, each.logprob), "top_logprobs": [one(top.token_id, top.logprob) for top in each.top]}
            for each in logprobs
        ],
        "refusal": None,
    }


def text_logprobs(
    logprobs: Sequence[TokenLogprobs],
    texts: TokenTexts,
    offset: int,
    *,
    text: str | None = None,
    first: int | None = None,
) -> Mapping[str, Any]:
    """Log probabilities as completions have them.

    Args:
        logprobs: Of the tokens.
        texts: What tokens are.
        offset: That of the first token in the text, in characters.
        text: What the tokens are together, where all of it is there: where each begins is looked for in it.
        first: A token before them that has no probability, as the first of a prompt; None for none.
    """
    before = [] if first is None else [first]
    ids = before + [each.token_id for each in logprobs]
    tokens = [texts[token_id] for token_id in ids]
    if text is None:  # of a character in several tokens all have the place, as where all of the text is there
        decoder = getincrementaldecoder("utf-8")("replace")
        ends = accumulate((len(decoder.decode(texts.piece(token_id))) for token_id in ids), initial=offset)
        offsets = list(ends)[: len(tokens)]
    else:
        offsets = [offset + at for at in _offsets(text, [texts.piece(token_id) for token_id in ids])]
    return {
        "tokens": tokens,
        "token_logprobs": [None for _ in before] + [each.logprob for each in logprobs],
        "top_logprobs": [None for _ in before]
        + [{texts[top.token_id]: top.logprob for top in each.top} for each in logprobs],
        "text_offset": offsets,
    }


def _offsets(text: str, pieces: Iterable[bytes]) -> list[int]:
    """Where pieces begin in a text; those that are not in it, as control tokens, have no length."""
    decoder, at, found = getincrementaldecoder("utf-8")("replace"), 0, []
    for piece in pieces:
        found.append(at)
        told = decoder.decode(piece)
        for part in (told, told.lstrip(" ")):  # a text's first blank may be none of it
            if text.startswith(part, at):
                at += len(part)
                break
    return found
