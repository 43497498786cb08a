"""A cell that renders conversations with the templates of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd.engine.text.rendering import Renderer, TemplateTexts
from inferd.engine.text.sandbox import make_environment
from inferd.engine.work import ChatInput, Message
from inferd.errors import InferdError, words_of

if TYPE_CHECKING:
    from inferd.engine.text.tokenizer import Tokenizer
    from inferd.plugin.channel import Channel


class Scribe:
    """The work of the cell.

    Args:
        tokenizer: The model's, where the templates' control tokens are looked for in a text as it writes that; None
            where they are looked for in texts as they are.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._normalize = None if tokenizer is None else tokenizer.normalize

    def serve(self, channel: Channel, descriptors: list[int]) -> None:  # noqa: ARG002 - it is handed none
        """Take the templates, then conversations until the channel is closed."""
        texts, _ = channel.receive()
        renderer = Renderer(make_environment, TemplateTexts(**texts, normalize=self._normalize))
        while True:
            chat, _ = channel.receive()
            channel.send(_render(renderer, chat))


def _render(renderer: Renderer, chat: Any) -> dict[str, Any]:
    """The prompt, or what is wrong."""
    messages = tuple(
        Message(**each | {name: tuple(each[name]) for name in ("parts", "images")}) for each in chat["messages"]
    )
    try:
        prompt = renderer.compose(ChatInput(**chat | {"messages": messages}))
    except InferdError as error:
        return {"reason": error.reason, "message": error.message, "metadata": error.metadata, "field": error.field}
    except MemoryError:
        return {"memory": True}
    except Exception as error:  # noqa: BLE001 - the template is foreign code: whatever it raises is its error
        return {"cause": f"{type(error).__name__}: {words_of(error)}", "message": words_of(error)}
    return {"text": prompt.text, "own": prompt.own, "plain": sorted(prompt.plain)}
