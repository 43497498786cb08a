"""`POST /tokenize` and `/detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from inferd.http.calls import answer
from inferd.http.fields import CHATS, check_fields, check_option, flag, need, read_options
from inferd.http.messages import read_messages
from inferd.http.problems import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.token_texts import Remembered

KNOWN: Final = CHATS | {"model", "prompt", "messages", "tools", "chat_template_kwargs", "return_token_strs"}


class Tokens:
    """Texts as tokens, and tokens as texts.

    Args:
        remembered: Texts of tokens.
    """

    def __init__(self, remembered: Remembered) -> None:
        self._remembered = remembered

    async def tokenize(self, call: Call) -> ASGIApp:
        """The tokens of a text or a conversation."""
        body = call.body
        check_fields(body, KNOWN, {})
        model = need(body, "model", str, "the name of a model")
        options: dict[str, Any] = {}
        if body.get("messages") is not None:
            prompt: Any = read_messages(body["messages"])
            options = read_options(body, CHATS | {"tools"})
            if (said := body.get("chat_template_kwargs")) is not None:
                check_option("template_variables", said, "chat_template_kwargs")
                options["template_variables"] = said
        else:
            prompt = need(body, "prompt", str, "a text, where there are no messages")
        try:
            ids = await call.client.tokenize(model, prompt, **options)
        except (TypeError, ValueError) as error:
            raise Refusal(str(error)) from None
        found = await call.client.get_model(model)
        told: dict[str, Any] = {"count": len(ids), "max_model_len": None, "tokens": ids, "token_strs": None}
        contexts = [each.context_tokens for each in found.instances if each.context_tokens]
        if contexts:
            told["max_model_len"] = min(contexts)
        if flag(body, "return_token_strs"):
            texts = self._remembered.of(call.client, model, found.version)
            await texts.load_ids(ids)
            told["token_strs"] = [texts[one] for one in ids]
        return answer(told)

    async def detokenize(self, call: Call) -> ASGIApp:
        """The text of tokens."""
        body = call.body
        check_fields(body, {"model", "tokens"}, {})
        model = need(body, "model", str, "the name of a model")
        ids = need(body, "tokens", list, "a list of token ids")
        check_option("token_ids", ids, "tokens")
        return answer({"prompt": await call.client.detokenize(model, ids)})
