"""Texts and conversations become tokens, in bounded time, and without holding anybody up."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

from inferd.engine.cells.cell import OUT_OF_MEMORY, CellError
from inferd.engine.cells.pool import DiedError, Pool
from inferd.engine.text.control import Prompt
from inferd.engine.text.template import ChatTemplate
from inferd.engine.work import ChatInput
from inferd.errors import InternalError, LimitExceededError, PromptTooLongError, UnsupportedInputError
from inferd.plugin.channel import LateError
from inferd.reasons import from_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.engine.cells.cell import Cells
    from inferd.engine.leash import Leash
    from inferd.engine.text.tokenizer import Tokenizer
    from inferd.engine.work import TextInput
    from inferd.plugin import Vocabulary


class Texts:
    """What of the intake may be slow. May be called from any thread.

    Args:
        vocabulary: The model's.
        tokenizer: Made of it.
        cells: Where long texts are encoded, and templates rendered.
        template_timeout_s: Longest time of a chat template.
        text_timeout_s: Longest time of turning a long text into tokens.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        *,
        cells: Cells,
        template_timeout_s: float,
        text_timeout_s: float,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoders = Pool(cells, "encode")
        self._memory_bytes = cells.memory_bytes
        self._timeout_s = text_timeout_s
        self._template: ChatTemplate | None = None
        source = vocabulary.tool_use_template if vocabulary.chat_template is None else vocabulary.chat_template
        if source is not None:
            self._template = ChatTemplate(
                source,
                bos=tokenizer.name(vocabulary.bos_id),
                eos=tokenizer.name(next(iter(vocabulary.eos_ids), None)),
                timeout_s=template_timeout_s,
                cells=cells,
                tool_use=vocabulary.tool_use_template,
                added=tokenizer.added,
                normalizes=tokenizer.normalize is not None,
            )

    def warm(self) -> None:
        """Be ready for the first text and the first conversation."""
        with suppress(CellError, DiedError, LateError):  # whose text it is, is told
            if not self._tokenizer.quick_bytes:
                self._encoders.warm()
            if self._template is not None:
                self._template.warm()

    def tokenize(
        self,
        given: TextInput | ChatInput,
        *,
        most_tokens: int | None = None,
        leash: Leash | None = None,
        arrange: Callable[[Prompt], Prompt] | None = None,
    ) -> Sequence[int]:
        """The tokens of an input.

        Args:
            given: A text or a conversation.
            most_tokens: A text that must have more is refused before it is encoded; None for any.
            leash: Ends it before; None for none.
            arrange: What becomes of a rendered conversation; None for nothing.

        Raises:
            UnsupportedInputError: Messages for a model without a chat template.
            ChatTemplateError: The template failed.
            InvalidFieldError: What the messages say cannot be tokens.
            PromptTooLongError: There must be more than `most_tokens`.
            LimitExceededError: It takes too long, or too much memory.
        """
        if not isinstance(given, ChatInput):
            self._check(given.prompt, most_tokens)
            return self._encode(given.prompt, leash=leash)
        if self._template is None:
            raise UnsupportedInputError("the model has no chat template; send a text prompt instead")
        prompt = self._template.prompt(given, leash)
        prompt = prompt if arrange is None else arrange(prompt)
        self._check(prompt.text, most_tokens)
        return self._encode(prompt.text, prompt, leash)

    def _check(self, text: str, most_tokens: int | None) -> None:
        longest = self._tokenizer.longest_bytes
        if most_tokens is None or longest is None or len(text) <= most_tokens:  # a token has a byte at least
            return
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > longest * most_tokens:
            raise PromptTooLongError(
                f"the prompt has {size} bytes, at least {-(-size // longest)} tokens of at most {longest} bytes, and "
                f"fills the model's context of {most_tokens + 1} tokens; shorten it",
                metadata={
                    "prompt_bytes": str(size),
                    "prompt_tokens": str(-(-size // longest)),
                    "limit_tokens": str(most_tokens + 1),
                },
            )

    def is_quick(self, text: str) -> bool:
        """Whether a text is encoded in some hundredths of a second, whatever it says."""
        quick_bytes = self._tokenizer.quick_bytes
        if len(text) <= quick_bytes // 4:  # at most 4 bytes a character
            return True
        return len(text) <= quick_bytes and len(text.encode("utf-8", "surrogatepass")) <= quick_bytes

    def words(self, text: str, leash: Leash | None = None) -> Sequence[int]:
        """The tokens of a part of a text, with nothing added; raises as `tokenize` of a text."""
        return self._encode(text, Prompt(text), leash)

    def _encode(self, text: str, prompt: Prompt | None = None, leash: Leash | None = None) -> Sequence[int]:
        own = None if prompt is None else prompt.own
        apart = leash is not None and leash.apart
        if (
            own is None and not apart and self.is_quick(text)
        ):  # in this process, without the lock of Python; nothing could end it
            return self._tokenizer.encode(text, template=prompt is not None)
        data = text.encode("utf-8", "surrogatepass")
        message = {"template": prompt is not None, "own": own, "plain": sorted(prompt.plain) if prompt else []}
        try:
            answer, ids = self._encoders.ask(message, data, timeout_s=self._timeout_s, leash=leash)
        except LateError:
            limit = f"{self._timeout_s:g}"
            raise _exceeded(f"took longer than {limit} s", "workers.text_timeout_s", limit) from None
        except (CellError, DiedError) as error:
            if OUT_OF_MEMORY in str(error):
                raise self._too_large() from None
            raise InternalError(f"the input cannot be prepared: the process for that ended: {error}") from None
        if "memory" in answer:
            raise self._too_large()
        if "reason" in answer:
            raise from_reason(answer["reason"], answer["message"], {"field": answer["field"]})
        if "cause" in answer:
            raise InternalError(f"the input cannot be prepared: {answer['cause']}")
        return array("i", ids)

    def _too_large(self) -> LimitExceededError:
        limit = str(self._memory_bytes)
        return _exceeded(f"took more than {limit} bytes of memory", "workers.cell_memory_bytes", limit)


def _exceeded(what: str, bound: str, limit: str) -> LimitExceededError:
    return LimitExceededError(
        f"turning the prompt into tokens {what} ({bound}); shorten it",
        field="spec.input",
        metadata={"bound": bound, "limit": limit},
    )
