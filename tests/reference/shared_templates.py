"""Chat templates, rendered by the engine and by Hugging Face transformers, which is the measure of it."""

import importlib
from typing import Any

from shared_cells import fake_cells

from inferd.engine.text.template import ChatTemplate
from inferd.engine.work import ChatInput


def reference(source: str, messages: list[dict[str, Any]], **more: Any) -> str:
    """What transformers renders."""
    library = importlib.import_module("transformers.utils.chat_template_utils")
    options = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"} | more
    rendered, _ = library.render_jinja_template(conversations=[messages], chat_template=source, **options)
    return str(rendered[0])


def render(source: str, chat: ChatInput, **more: Any) -> str:
    """What the engine renders."""
    return ChatTemplate(source, bos="<s>", eos="</s>", timeout_s=60, cells=fake_cells(), **more).render(chat)
