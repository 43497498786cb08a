"""From a task's input to a sequence: template, tokenizer, and the checks of what the model can take."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.pictures.gallery import open_gallery
from inferd.engine.text.bad_words import encode_bad_words
from inferd.engine.text.detokenizer import Detokenizer, decode
from inferd.engine.text.texts import Texts
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.text.writing import Writing
from inferd.engine.token.attributing import attributions_of, check_attributed, check_tokens
from inferd.engine.token.drafts import Drafter
from inferd.engine.token.dry import Dry
from inferd.engine.token.embedding import PromptPool
from inferd.engine.token.rules import Rules
from inferd.engine.token.sequence import Sequence
from inferd.engine.work import ChatInput, TextInput, TokenInput
from inferd.errors import InferdError, InvalidFieldError, UnsupportedInputError
from inferd.plugin.backend import EMBEDDING_DEFAULTS, EmbeddingDefaults, Pooling
from inferd.sampling import ONE_TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from inferd.engine.cells.cell import Cells
    from inferd.engine.leash import Leash
    from inferd.engine.text.detokenizer import Piece
    from inferd.engine.token.limits import Bounds, EngineLimits
    from inferd.engine.token.script import Script
    from inferd.engine.token.sequence import Origin
    from inferd.engine.work import Attributed, Embedding, TaskInput
    from inferd.plugin import Attribution, LoadedModel, Vocabulary
    from inferd.plugin.pictures import PictureReader, SoundReader
    from inferd.sampling import Sampling

_QUICK: Final = 4096  # characters


class Intake:
    """Makes sequences for one model. `accept` is slow for long texts: it is not called from the thread of the steps.

    Args:
        vocabulary: The model's.
        bounds: What the session can do.
        cells: Where what may be slow is done.
        limits: How long that may take.
        embedding: How the model wants embeddings to be made.
        pictures: What it does with pictures, or why it takes none.
        attributions: By what the session tells what tokens are worth.

    Raises:
        ModelLoadError: No tokenizer can be built from the vocabulary.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        bounds: Bounds,
        *,
        cells: Cells,
        limits: EngineLimits,
        embedding: EmbeddingDefaults = EMBEDDING_DEFAULTS,
        pictures: PictureReader | SoundReader | str = "",
        attributions: frozenset[Attribution] = frozenset(),
        by_model: bool = False,
    ) -> None:
        self._bounds = bounds
        self.attributions = attributions
        self._by_model = by_model
        self._pictures = open_gallery(pictures, limits.picture, step_tokens=bounds.step_tokens * bounds.whole_pictures)
        self._pooling = embedding.pooling
        self._head = embedding.head
        self._pooled = embedding.pooled
        self._closing = vocabulary.eos_ids[:1] if embedding.add_eos and vocabulary.algorithm != "json" else ()
        self._tokenizer = Tokenizer(vocabulary, size=bounds.vocabulary_size)
        self._vocabulary = vocabulary
        self._ends = frozenset(vocabulary.eos_ids)
        self._texts = Texts(
            vocabulary,
            self._tokenizer,
            cells=cells,
            template_timeout_s=limits.template_timeout_s,
            text_timeout_s=limits.text_timeout_s,
        )

    @classmethod
    def of(cls, model: LoadedModel, bounds: Bounds, *, cells: Cells, limits: EngineLimits) -> Intake:
        """For a loaded model."""
        return cls(
            model.vocabulary,
            bounds,
            cells=cells,
            limits=limits,
            embedding=model.embedding,
            pictures=model.pictures,
            attributions=attributions_of(model.session),
            by_model=model.draft is not None,
        )

    @property
    def pieces(self) -> Items[Piece]:
        """What each token adds to a text, by id."""
        return self._tokenizer.pieces

    @cached_property
    def writing(self) -> Writing:
        """How the model's texts are written."""
        return Writing.of(self._vocabulary, self._tokenizer)

    def plain_tokens(self, text: str) -> list[int]:
        """The tokens of a text as it stands, without those that a model wants around it; none where that fails."""
        try:
            token_ids = self._texts.words(text)
        except InferdError:
            return []
        return [token_id for token_id in token_ids if token_id < self._bounds.vocabulary_size]

    def words(self, text: str) -> Items[int]:
        """As `plain_tokens`, where it must not fail.

        Raises:
            InvalidFieldError: The network has no row for one of them.
            LimitExceededError: It takes too long, or too much memory.
        """
        token_ids = self._texts.words(text)
        self._check_written(token_ids)
        return token_ids

    def warm(self) -> None:
        """Be ready for the first conversation."""
        self._texts.warm()

    def is_quick(self, task_input: TaskInput, sampling: Sampling, *, apart: bool = False) -> bool:
        """Whether a task is prepared in some hundredths of a second, whatever it says; `apart` as in `Leash`."""
        texts = list(sampling.bad_words)
        if isinstance(task_input, TextInput):
            texts.append(task_input.prompt)
        elif not isinstance(task_input, TokenInput):
            return False
        if apart and texts:
            return False
        return sum(map(len, texts)) <= _QUICK and all(map(self._texts.is_quick, texts))

    def embed(
        self, origin: Origin, task_input: TaskInput, embedding: Embedding, leash: Leash | None = None
    ) -> Sequence:
        """The sequence of a task that wants an embedding: its prompt is computed, and what follows it is of no use.

        Raises:
            UnsupportedInputError: The session gives no hidden states; else as `accept`.
        """
        if not self._bounds.embedding_size:
            raise UnsupportedInputError("the backend of this model gives no embeddings", field="spec.embedding")
        if self._pooled and embedding.pooling not in (None, self._pooling):
            raise UnsupportedInputError(
                f"this model pools by itself, and not by {embedding.pooling.name}: leave the pooling out",
                field="spec.embedding.pooling",
            )
        ranks = (embedding.pooling or self._pooling) is Pooling.RANK
        if ranks and self._head is None:
            raise UnsupportedInputError("this model has no head that gives scores", field="spec.embedding.pooling")
        if embedding.query and isinstance(task_input, TextInput):
            task_input = TokenInput(self._pair(embedding.query, task_input, leash))
        elif isinstance(task_input, TextInput) and self._closing:
            ids = self._tokens_of(task_input, leash, most_tokens=self._bounds.sequence_tokens - 1)
            task_input = TokenInput([*ids, *(() if tuple(ids[-1:]) == self._closing else self._closing)])
        return self._make(origin, task_input, ONE_TOKEN, leash, embedding)

    def _pair(self, query: str, task_input: TextInput, leash: Leash | None) -> list[int]:
        """Both texts, as the model's tokenizer puts them together."""
        frame = self._tokenizer.pair_frame
        if frame is None:
            raise UnsupportedInputError("the tokenizer of this model knows no pairs", field="spec.embedding.query")
        most = self._bounds.sequence_tokens - 1
        first, second = (
            list(self._tokens_of(text, leash, most_tokens=most))[len(frame.before) : -len(frame.after)]
            for text in (replace(task_input, prompt=query), task_input)
        )
        return [*frame.before, *first, *frame.between, *second, *frame.after]

    def attribute(self, origin: Origin, task_input: TaskInput, asked: Attributed) -> Sequence:
        """The sequence of a task that asks what its tokens are worth: it has no place in steps.

        Raises:
            UnsupportedInputError: The session does not tell it; else as `accept`.
        """
        check_attributed(asked, self.attributions)
        sequence = self._make(origin, task_input, ONE_TOKEN, None)
        check_tokens(asked, len(sequence.prompt), self._bounds.vocabulary_size)
        return sequence

    def accept(
        self,
        origin: Origin,
        task_input: TaskInput,
        sampling: Sampling,
        leash: Leash | None = None,
        *,
        script: Script | None = None,
        allowed_output: int = 0,
    ) -> Sequence:
        """The sequence of a task, without the constraint of its grammar; its leash ends this before.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template, or a model that only makes embeddings.
            ChatTemplateError: The template failed.
            InvalidFieldError: No tokens, some outside the vocabulary, or `max_tokens` outside its bounds.
            PromptTooLongError: The prompt and its output do not fit.
            LimitExceededError: Turning it into tokens takes too long, or too much memory.
        """
        if self._bounds.whole_prompts:
            raise UnsupportedInputError(
                "this model makes embeddings, and no text: ask for one with `inferd embed`, or `client.embed`",
                field="spec.embedding",
            )
        return self._make(origin, task_input, sampling, leash, script=script, allowed_output=allowed_output)

    def _make(
        self,
        origin: Origin,
        task_input: TaskInput,
        sampling: Sampling,
        leash: Leash | None,
        embedding: Embedding | None = None,
        *,
        script: Script | None = None,
        allowed_output: int = 0,
    ) -> Sequence:
        ids = self._tokens_of(task_input, leash, most_tokens=self._bounds.sequence_tokens - 1)
        if not len(ids):
            raise InvalidFieldError("the prompt has no tokens; give at least one", field="spec.input")
        bounds = self._bounds
        most = max(bounds.max_output_tokens, allowed_output)
        most = sampling.most_output(len(ids), context=bounds.sequence_tokens, most=most)
        ends = self._ends_of(sampling)
        sampling.check_prompt(len(ids))
        rules = self._rules(sampling, ends, leash, script) if most else None
        self._place(origin, task_input, ids)
        return Sequence(
            origin,
            prompt=np.array(ids, np.int32),
            most_output=most,
            sampling=sampling,
            ends=ends,
            rules=rules,
            drafter=self._drafter(sampling, rules),
            pool=None if embedding is None else self._pool(embedding, len(ids)),
            echo=self.detokenize(ids) if sampling.echo else None,
            detokenizer=Detokenizer(self._tokenizer.pieces),
        )

    def _place(self, origin: Origin, task_input: TaskInput, ids: Items[int]) -> None:
        """Have a sequence know the pictures of its prompt and their places."""
        chain = origin.chain
        if chain is None:
            return
        if isinstance(task_input, TokenInput):
            chain.show(task_input.pictures)
        elif isinstance(task_input, ChatInput) and task_input.files:
            chain.show(self._pictures.place(task_input, ids, salt=chain.salt))

    def _drafter(self, sampling: Sampling, rules: Rules | None) -> Drafter | None:
        """Guesses for a sequence whose tokens depend on logits and position alone: then one step can verify them."""
        bound_by_history = rules is not None and rules.reads_history
        if not self._bounds.draft_tokens or bound_by_history or not sampling.steady:
            return None
        return Drafter(most=self._bounds.draft_tokens, by_model=self._by_model)

    def _pool(self, embedding: Embedding, prompt_tokens: int) -> PromptPool:
        return PromptPool(
            prompt_tokens, embedding, default=self._pooling, head=self._head, alone=self._bounds.whole_prompts
        )

    def ignores_ends(self, sampling: Sampling) -> bool:
        """Whether a task goes on past the tokens that end a text."""
        return sampling.ignore_eos

    def _ends_of(self, sampling: Sampling) -> frozenset[int]:
        """The tokens that end a sequence."""
        self._check_ids(sampling.stop_token_ids, "spec.sampling.stop_token_ids")
        return frozenset(sampling.stop_token_ids).union(() if self.ignores_ends(sampling) else self._ends)

    def _rules(
        self, sampling: Sampling, ends: frozenset[int], leash: Leash | None, script: Script | None
    ) -> Rules | None:
        phrases = encode_bad_words(sampling.bad_words, lambda text: self._texts.words(text, leash))
        size = self._bounds.vocabulary_size
        phrases = tuple(phrase for phrase in phrases if max(phrase) < size)  # no output has the others
        dry = Dry.of(sampling, self._tokenizer.pieces)
        return Rules.of(sampling, phrases=phrases, ends=ends, check_ids=self._check_ids, script=script, dry=dry)

    def tokenize(self, task_input: TaskInput) -> Items[int]:
        """The tokens of an input.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template.
            ChatTemplateError: The template failed.
            InvalidFieldError: Tokens that the network does not have, or tools that are not a JSON array of objects.
            LimitExceededError: It takes too long, or too much memory.
        """
        return self._tokens_of(task_input)

    def _tokens_of(
        self, task_input: TaskInput, leash: Leash | None = None, *, most_tokens: int | None = None
    ) -> Items[int]:
        if not isinstance(task_input, TokenInput):
            arrange = None
            if isinstance(task_input, ChatInput) and task_input.files:
                arrange = self._pictures.arranger(task_input, self._tokenizer.added, most_tokens=most_tokens)
            ids = self._texts.tokenize(task_input, most_tokens=most_tokens, leash=leash, arrange=arrange)
            self._check_written(ids)
            return ids
        self._check_ids(task_input.token_ids, "spec.tokens.token_ids")
        return task_input.token_ids

    def detokenize(self, token_ids: Items[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InvalidFieldError: Ids outside the vocabulary.
        """
        self._check_ids(token_ids, "token_ids")
        return decode(self._tokenizer.pieces, token_ids)

    def pieces_of(self, token_ids: Items[int]) -> list[bytes]:
        """The bytes that each token adds to a text.

        Raises:
            InvalidFieldError: Ids outside the vocabulary.
        """
        self._check_ids(token_ids, "token_ids")
        pieces = [self._tokenizer.pieces[token_id] for token_id in token_ids]
        return [piece.encode() if isinstance(piece, str) else piece for piece in pieces]

    def _check_written(self, token_ids: Items[int]) -> None:
        """Refuse tokens of a text that the network has no row for: a step with one of them fails for all in it."""
        size = self._bounds.vocabulary_size
        wrong = max(token_ids, default=-1)
        if wrong >= size:
            raise InvalidFieldError(
                f"token id {wrong} is outside the model's vocabulary of {size} tokens: its tokenizer has it for"
                f" {self._tokenizer.name(wrong)!r}, but its network has no row for it; leave that out of the text",
                field="spec.input",
                metadata={"token_id": str(wrong), "vocabulary_size": str(size)},
            )

    def _check_ids(self, token_ids: Items[int], field: str) -> None:
        size = self._bounds.vocabulary_size
        if isinstance(token_ids, array) and (not token_ids or max(token_ids) < size):
            return  # there are many, and none is below 0
        wrong = next((number for number in token_ids if not 0 <= number < size), None)
        if wrong is not None:
            raise InvalidFieldError(
                f"token id {wrong} is outside the model's vocabulary of {size} tokens",
                field=field,
                metadata={"token_id": str(wrong), "vocabulary_size": str(size)},
            )
