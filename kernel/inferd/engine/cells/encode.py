"""A cell that turns texts into tokens: long ones, and those in which not every control token is one."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from inferd.engine.text.control import Prompt
from inferd.errors import InferdError, words_of

if TYPE_CHECKING:
    from inferd.engine.text.tokenizer import Tokenizer
    from inferd.plugin.channel import Channel


class Encoder:
    """The work of the cell.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def serve(self, channel: Channel, descriptors: list[int]) -> None:  # noqa: ARG002 - it is handed none
        """Take texts until the channel is closed."""
        while True:
            message, data = channel.receive()
            channel.send(*self._encode(message, data.decode("utf-8", "surrogatepass")))

    def _encode(self, message: Any, text: str) -> tuple[dict[str, Any], bytes]:
        try:
            if message["own"] is None:
                ids = self._tokenizer.encode(text, template=message["template"])
            else:
                own = tuple((at, token) for at, token in message["own"])
                ids = self._tokenizer.encode_prompt(Prompt(text, own, frozenset(message["plain"])))
        except InferdError as error:
            return {"message": error.message, "reason": error.reason, "field": error.field}, b""
        except MemoryError:
            return {"memory": True}, b""
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
            return {"cause": f"{type(error).__name__}: {words_of(error)}"}, b""
        return {}, array("i", ids).tobytes()
