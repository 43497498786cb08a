"""From a task's input to a sequence: template, tokenizer, and the checks of what the model can take."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.core.task import Sampling, TextInput, TokenInput
from inferd.engine.bad_words import encode_bad_words
from inferd.engine.detokenizer import Detokenizer, decode
from inferd.engine.embedding import PromptPool
from inferd.engine.rules import Rules
from inferd.engine.sequence import Sequence
from inferd.engine.texts import Texts
from inferd.engine.tokenizer import Tokenizer
from inferd.errors import InvalidFieldError, PromptTooLongError, UnsupportedInputError
from inferd.plugin.backend import EMBEDDING_DEFAULTS, EmbeddingDefaults

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from inferd.core.task import Embedding, TaskInput
    from inferd.engine.cells.cell import Cells
    from inferd.engine.leash import Leash
    from inferd.engine.limits import Bounds, EngineLimits
    from inferd.plugin import Vocabulary

MOST_PROMPT_LOGPROBS: Final = 200_000
"""Log probabilities told of one prompt: they go to the client in one message of about 2.5 MB."""

_QUICK: Final = 4096  # characters


class Intake:
    """Makes sequences for one model. `accept` is slow for long texts: it is not called from the thread of the steps.

    Args:
        vocabulary: The model's.
        bounds: What the session can do.
        cells: Where what may be slow is done.
        limits: How long that may take.
        embedding: How the model wants embeddings to be made.

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
    ) -> None:
        self._bounds = bounds
        self._pooling = embedding.pooling
        self._closing = vocabulary.eos_ids[:1] if embedding.add_eos and vocabulary.algorithm != "json" else ()
        self._tokenizer = Tokenizer(vocabulary, size=bounds.vocabulary_size)
        self._ends = frozenset(vocabulary.eos_ids)
        self._texts = Texts(
            vocabulary,
            self._tokenizer,
            cells=cells,
            template_timeout_s=limits.template_timeout_s,
            text_timeout_s=limits.text_timeout_s,
        )

    def warm(self) -> None:
        """Be ready for the first conversation."""
        self._texts.warm()

    def is_quick(self, task_input: TaskInput, sampling: Sampling) -> bool:
        """Whether a task is prepared in some hundredths of a second, whatever it says."""
        texts = list(sampling.bad_words)
        if isinstance(task_input, TextInput):
            texts.append(task_input.prompt)
        elif not isinstance(task_input, TokenInput):
            return False
        return sum(map(len, texts)) <= _QUICK and all(map(self._texts.is_quick, texts))

    def embed(self, handle: int, task_input: TaskInput, embedding: Embedding, leash: Leash | None = None) -> Sequence:
        """The sequence of a task that wants an embedding: its prompt is computed, and what follows it is of no use.

        Raises:
            UnsupportedInputError: The session gives no hidden states; else as `accept`.
        """
        if not self._bounds.embedding_size:
            raise UnsupportedInputError("the backend of this model gives no embeddings", field="spec.embedding")
        if isinstance(task_input, TextInput) and self._closing:
            ids = self._tokens_of(task_input, leash, most_tokens=self._bounds.sequence_tokens - 1)
            task_input = TokenInput([*ids, *(() if tuple(ids[-1:]) == self._closing else self._closing)])
        sequence = self._make(handle, task_input, Sampling(max_tokens=1, temperature=0), leash)
        sequence.pool = PromptPool(
            len(sequence.prompt), embedding, default=self._pooling, alone=self._bounds.whole_prompts
        )
        return sequence

    def accept(self, handle: int, task_input: TaskInput, sampling: Sampling, leash: Leash | None = None) -> Sequence:
        """The sequence of a task, without the constraint of its grammar; its leash ends this before.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template, or a model that only makes embeddings.
            ChatTemplateError: The template failed.
            InvalidFieldError: No tokens, ids outside the vocabulary, or `max_tokens` outside its bounds.
            PromptTooLongError: The prompt and its output do not fit.
            LimitExceededError: Turning it into tokens takes too long, or too much memory.
        """
        if self._bounds.whole_prompts:
            raise UnsupportedInputError("this model makes embeddings, and no text: ask for one", field="spec.embedding")
        return self._make(handle, task_input, sampling, leash)

    def _make(self, handle: int, task_input: TaskInput, sampling: Sampling, leash: Leash | None) -> Sequence:
        ids = self._tokens_of(task_input, leash, most_tokens=self._bounds.sequence_tokens - 1)
        if not len(ids):
            raise InvalidFieldError("the prompt has no tokens; give at least one", field="spec.input")
        max_tokens = self._max_tokens(len(ids), sampling.max_tokens, fits=sampling.fit_max_tokens)
        ends = self._ends_of(sampling)
        self._check_scores(len(ids), sampling.prompt_logprobs)
        return Sequence(
            handle=handle,
            prompt=np.array(ids, np.int32),
            max_tokens=max_tokens,
            sampling=sampling,
            ends=ends,
            rules=self._rules(sampling, ends, max_tokens, leash),
            echo=self.detokenize(ids) if sampling.echo else "",
            detokenizer=Detokenizer(self._tokenizer.pieces),
        )

    def _ends_of(self, sampling: Sampling) -> frozenset[int]:
        """The tokens that end a sequence."""
        self._check_ids(sampling.stop_token_ids, "spec.sampling.stop_token_ids")
        return frozenset(sampling.stop_token_ids).union(() if sampling.ignore_eos else self._ends)

    def _rules(self, sampling: Sampling, ends: frozenset[int], max_tokens: int, leash: Leash | None) -> Rules | None:
        self._check_ids([token_id for token_id, _ in sampling.logit_bias], "spec.sampling.logit_bias")
        if sampling.min_tokens > max_tokens:
            raise InvalidFieldError(
                f"min_tokens is {sampling.min_tokens}; at most {max_tokens} tokens can be produced",
                field="spec.sampling.min_tokens",
            )
        phrases = encode_bad_words(sampling.bad_words, lambda text: self._texts.words(text, leash))
        return Rules.of(sampling, phrases=phrases, ends=ends)

    def _check_scores(self, prompt_tokens: int, top: int | None) -> None:
        told = 0 if top is None else prompt_tokens * (1 + top)
        if told > MOST_PROMPT_LOGPROBS:
            raise InvalidFieldError(
                f"prompt_logprobs of {top} for {prompt_tokens} tokens are {told} log probabilities; "
                f"at most {MOST_PROMPT_LOGPROBS} are told of a prompt",
                field="spec.sampling.prompt_logprobs",
            )

    def tokenize(self, task_input: TaskInput) -> Items[int]:
        """The tokens of an input.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template.
            ChatTemplateError: The template failed.
            InvalidFieldError: Ids outside the vocabulary, or tools that are not a JSON array of objects.
            LimitExceededError: It takes too long, or too much memory.
        """
        return self._tokens_of(task_input)

    def _tokens_of(
        self, task_input: TaskInput, leash: Leash | None = None, *, most_tokens: int | None = None
    ) -> Items[int]:
        if not isinstance(task_input, TokenInput):
            return self._texts.tokenize(task_input, most_tokens=most_tokens, leash=leash)
        self._check_ids(task_input.token_ids, "spec.tokens.token_ids")
        return task_input.token_ids

    def detokenize(self, token_ids: Items[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InvalidFieldError: Ids outside the vocabulary.
        """
        self._check_ids(token_ids, "token_ids")
        return decode(self._tokenizer.pieces, token_ids)

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

    def _max_tokens(self, prompt: int, asked: int | None, *, fits: bool) -> int:
        """Most tokens to produce; with `fits` as many of those that are asked for as there can be."""
        limit, most = self._bounds.sequence_tokens, self._bounds.max_output_tokens
        if asked is not None and fits:
            asked = min(asked, most, max(1, limit - prompt))
        if asked is not None and not 1 <= asked <= most:
            raise InvalidFieldError(
                f"max_tokens is {asked}; it must be from 1 to {most}", field="spec.sampling.max_tokens"
            )
        metadata = {"prompt_tokens": str(prompt), "limit_tokens": str(limit)}
        if prompt >= limit:
            raise PromptTooLongError(
                f"the prompt has {prompt} tokens and fills the model's context of {limit} tokens; shorten it",
                metadata=metadata,
            )
        if asked is None:
            return min(limit - prompt, most)
        if prompt + asked > limit:
            raise PromptTooLongError(
                f"the prompt of {prompt} tokens and max_tokens of {asked} make {prompt + asked}, over the model's "
                f"context of {limit} tokens; shorten the prompt or ask for at most {limit - prompt}",
                metadata=metadata | {"max_tokens": str(asked)},
            )
        return asked
