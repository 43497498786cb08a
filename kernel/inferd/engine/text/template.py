"""Chat templates, with limits of time and memory that hold: they are rendered in a cell."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from inferd.engine.cells.cell import CellError
from inferd.engine.cells.pool import DiedError, Pool
from inferd.engine.text.control import Prompt
from inferd.errors import ChatTemplateError
from inferd.plugin.channel import LateError
from inferd.reasons import from_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.engine.cells.cell import Cells
    from inferd.engine.leash import Leash
    from inferd.engine.work import ChatInput


class ChatTemplate:
    """The chat templates of one model. Compiled at the first use, inside the time limit.

    Args:
        source: Jinja text.
        bos: What the template sees as `bos_token`.
        eos: What the template sees as `eos_token`.
        timeout_s: Longest time of one rendering.
        cells: Where it is rendered.
        tool_use: Jinja text for conversations with tools; None for none of its own.
        added: The tokens that are recognised inside any text, and whether each is special.
        normalizes: Whether the tokenizer changes a text before it looks for those.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str,
        eos: str,
        timeout_s: float,
        cells: Cells,
        tool_use: str | None = None,
        added: Mapping[str, bool] | None = None,
        normalizes: bool = False,
    ) -> None:
        texts = {"source": source, "tool_use": tool_use, "bos": bos, "eos": eos, "added": added}
        self._pool = Pool(cells, "render by tokenizer" if normalizes else "render", greeting=texts)
        self._memory_bytes = cells.memory_bytes
        self._timeout_s = timeout_s

    def warm(self) -> None:
        """Be ready for the first conversation."""
        self._pool.warm()

    def render(self, chat: ChatInput) -> str:
        """The text of a conversation; raises as `prompt`."""
        return self.prompt(chat).text

    def prompt(self, chat: ChatInput, leash: Leash | None = None) -> Prompt:
        """The text of a conversation, up to where the model's answer begins.

        Raises:
            ChatTemplateError: The template is wrong, refused the messages, or went past its time, memory or length.
            InvalidFieldError: Tools or calls of tools are not a JSON array, or there is no such role.
        """
        try:
            answer, _ = self._pool.ask(asdict(replace(chat, files=())), timeout_s=self._timeout_s, leash=leash)
        except LateError:
            limit = f"{self._timeout_s:g}"
            raise _exceeded(f"took longer than {limit} s", "workers.template_timeout_s", limit) from None
        except (CellError, DiedError) as error:
            cause = f"the process that renders it ended: {error}"
            message = f"the chat template of the model failed: {cause}"
            raise ChatTemplateError(message, metadata={"cause": cause}) from None
        if "text" in answer:
            own = answer["own"]
            places = None if own is None else tuple((at, token) for at, token in own)
            return Prompt(answer["text"], places, frozenset(answer["plain"]))
        raise self._error(answer)

    def _error(self, answer: Any) -> Exception:
        if "memory" in answer:
            limit = str(self._memory_bytes)
            return _exceeded(f"took more than {limit} bytes of memory", "workers.cell_memory_bytes", limit)
        if "reason" in answer:
            return from_reason(answer["reason"], answer["message"], answer["metadata"] | {"field": answer["field"]})
        message = f"the chat template of the model failed: {answer['message']}"
        return ChatTemplateError(message, metadata={"cause": answer["cause"]})


def _exceeded(what: str, bound: str, limit: str) -> ChatTemplateError:
    return ChatTemplateError(
        f"the chat template of the model {what} ({bound}); shorten the conversation, or send a text prompt instead",
        metadata={"bound": bound, "limit": limit, "cause": what},
    )
