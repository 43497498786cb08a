"""From a text to the tokens that a classifier reads: at most so many, what is left out is counted."""

from typing import Final

from tokenizers import Tokenizer

from inferd.plugin import Vocabulary
from inferd_torch.artifact import Artifact
from inferd_torch.training.texts import read_tokenizer

MOST_CHARACTERS: Final = 1 << 18
"""Of a text; a longer one is refused, so that no text takes the time of others."""


class TextReader:
    """Makes tokens of texts, as the tokenizer of the model has it: with the ones that stand before and behind a text.

    Args:
        tokenizer: Of the model, which is this reader's from now on.
        vocabulary: Of the model.
        most: Tokens that are read.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, *, most: int) -> None:
        self._inner, self._most = tokenizer, most
        self._adds = vocabulary.algorithm == "json"
        self._first = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []

    def read(self, text: str) -> tuple[list[int], int]:
        """The tokens of a text, at least one, and how many of it were not read.

        Raises:
            ValueError: It is too long or has no tokens; the message goes on from "it".
        """
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"has {len(text)} characters; at most {MOST_CHARACTERS} are read")
        ids, cut = self._encode(text), 0
        if len(ids) > self._most:
            cut = len(ids) - self._most
            self._inner.enable_truncation(self._most)
            try:
                ids = self._encode(text)[: self._most]
            finally:
                self._inner.no_truncation()
        if not ids:
            raise ValueError("has no tokens")
        return ids, cut

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._inner.encode(text, add_special_tokens=self._adds).ids
        return ids if not self._first or ids[:1] == self._first else [*self._first, *ids]


def make_reader(artifact: Artifact, *, most: int) -> TextReader:
    """The reader of a model.

    Raises:
        TrainError: Its tokenizer cannot be built.
    """
    return TextReader(read_tokenizer(artifact), artifact.vocabulary, most=most)
