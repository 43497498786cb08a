"""From a task's input to a sequence: template, tokenizer, and the checks of what the model can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inferd.core.task import ChatInput, TextInput, TokenInput
from inferd.engine.detokenizer import Detokenizer
from inferd.engine.sequence import Sequence
from inferd.engine.template import ChatTemplate
from inferd.engine.tokenizer import Tokenizer
from inferd.errors import InvalidFieldError, PromptTooLongError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from inferd.core.task import Sampling, TaskInput
    from inferd.engine.limits import Bounds
    from inferd.plugin import Vocabulary


class Intake:
    """Makes sequences for one model. `accept` is slow for long texts: it is not called from the thread of the steps.

    Args:
        vocabulary: The model's.
        bounds: What the session can do.
        template_timeout_s: Longest time of a chat template.

    Raises:
        ModelLoadError: No tokenizer can be built from the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, bounds: Bounds, *, template_timeout_s: float) -> None:
        self._bounds = bounds
        self._tokenizer = Tokenizer(vocabulary, size=bounds.vocabulary_size)
        self._ends = frozenset(vocabulary.eos_ids)
        self._template: ChatTemplate | None = None
        if vocabulary.chat_template is not None:
            self._template = ChatTemplate(
                vocabulary.chat_template,
                bos=self._tokenizer.name(vocabulary.bos_id),
                eos=self._tokenizer.name(next(iter(vocabulary.eos_ids), None)),
                timeout_s=template_timeout_s,
            )

    def accept(self, handle: int, task_input: TaskInput, sampling: Sampling) -> Sequence:
        """The sequence of a task.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template.
            ChatTemplateError: The template failed.
            InvalidFieldError: No tokens, ids outside the vocabulary, or `max_tokens` outside its bounds.
            PromptTooLongError: The prompt and its output do not fit.
        """
        ids = self._tokenize(task_input)
        if not ids:
            raise InvalidFieldError("the prompt has no tokens; give at least one", field="spec.input")
        return Sequence(
            handle=handle,
            prompt=np.array(ids, np.int32),
            max_tokens=self._max_tokens(len(ids), sampling.max_tokens),
            sampling=sampling,
            ends=frozenset() if sampling.ignore_eos else self._ends,
            detokenizer=Detokenizer(self._tokenizer.pieces),
        )

    def _tokenize(self, task_input: TaskInput) -> Items[int]:
        match task_input:
            case TextInput(prompt):
                return self._tokenizer.encode(prompt)
            case ChatInput(messages):
                if self._template is None:
                    raise UnsupportedInputError("the model has no chat template; send a text prompt instead")
                return self._tokenizer.encode(self._template.render(messages), template=True)
            case TokenInput(token_ids):
                self._check_ids(token_ids)
                return token_ids

    def _check_ids(self, token_ids: Items[int]) -> None:
        size = self._bounds.vocabulary_size
        wrong = next((number for number in token_ids if not 0 <= number < size), None)
        if wrong is not None:
            raise InvalidFieldError(
                f"token id {wrong} is outside the model's vocabulary of {size} tokens",
                field="spec.tokens.token_ids",
                metadata={"token_id": str(wrong), "vocabulary_size": str(size)},
            )

    def _max_tokens(self, prompt: int, asked: int | None) -> int:
        limit, most = self._bounds.sequence_tokens, self._bounds.max_output_tokens
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
