"""Chat templates, as Hugging Face transformers renders them, with a time limit that holds.

A template comes with the model's file and is not trusted. It runs in jinja2's immutable sandbox, in a thread of its
own that is ended when its time is up.
"""

from __future__ import annotations

import ctypes
import json
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inferd.engine.control import Prompt
from inferd.engine.rendering import MAX_CHARACTERS, Renderer, TemplateTexts
from inferd.errors import ChatTemplateError, InferdError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Context

    from inferd.core.task import ChatInput

_GRACE_S: Final = 0.5  # for the thread to notice that its time is up
_MAX_BITS: Final = 1024  # of a product of integers


class ChatTemplate:
    """The chat templates of one model. Compiled at the first use, inside the time limit.

    Args:
        source: Jinja text.
        bos: What the template sees as `bos_token`.
        eos: What the template sees as `eos_token`.
        timeout_s: Longest time of one rendering.
        tool_use: Jinja text for conversations with tools; None for none of its own.
        added: The tokens that are recognised inside any text, and whether each is special.
        normalize: See `ControlTokens`.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str,
        eos: str,
        timeout_s: float,
        tool_use: str | None = None,
        added: Mapping[str, bool] | None = None,
        normalize: Callable[[str], str] | None = None,
    ) -> None:
        texts = TemplateTexts(source=source, tool_use=tool_use, bos=bos, eos=eos, added=added, normalize=normalize)
        self._renderer = Renderer(make_environment, texts)
        self._timeout_s = timeout_s

    def render(self, chat: ChatInput) -> str:
        """The text of a conversation; raises as `prompt`."""
        return self.prompt(chat).text

    def prompt(self, chat: ChatInput) -> Prompt:
        """The text of a conversation, up to where the model's answer begins.

        Raises:
            ChatTemplateError: The template is wrong, refused the messages, or went past its time or length.
            InvalidFieldError: Tools or calls of tools are not a JSON array, or there is no such role.
        """
        rendering = _Rendering(self._renderer, chat)
        if not rendering.finish(self._timeout_s):
            raise ChatTemplateError(f"the chat template of the model took longer than {self._timeout_s:g} s")
        if isinstance(rendering.error, InferdError):
            raise rendering.error
        if rendering.error is not None:
            cause = f"{type(rendering.error).__name__}: {rendering.error}"
            raise ChatTemplateError(
                f"the chat template of the model failed: {rendering.error}", metadata={"cause": cause}
            )
        return rendering.prompt


def make_environment() -> jinja2.Environment:
    """Where templates run: as in transformers, and bounded."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


class _OutOfTime(SystemExit):
    """Raised inside a rendering whose time is up. Not an `Exception`, so that no template can catch it."""


class _Rendering:
    """One rendering in a thread of its own."""

    def __init__(self, renderer: Renderer, chat: ChatInput) -> None:
        self.prompt = Prompt("")
        self.error: Exception | None = None
        self._renderer = renderer
        self._chat = chat
        self._thread = threading.Thread(target=self._run, name="template", daemon=True)

    def finish(self, timeout_s: float) -> bool:
        """Run it; False when it had to be ended."""
        self._thread.start()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        # Raised at the thread's next bytecode. Single operations that never end are barred by the sandbox below.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_OutOfTime)
        )
        self._thread.join(_GRACE_S)
        return False

    def _run(self) -> None:
        try:
            self.prompt = self._renderer.compose(self._chat)
        except _OutOfTime:
            pass
        except Exception as error:  # noqa: BLE001 - the template is foreign code: whatever it raises is its error
            self.error = error


class _Sandbox(ImmutableSandboxedEnvironment):
    """Bars what one operation could do for ever, because only between operations a rendering can be ended."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("a chat template has no use for powers")
        if isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() + right.bit_length()
            limit = _MAX_BITS
        else:
            size = _repeated(left, right)
            limit = MAX_CHARACTERS
        if size > limit:
            raise SecurityError(f"a product of size {size} is over the limit of {limit}")
        return super().call_binop(context, operator, left, right)


def _repeated(left: Any, right: Any) -> int:
    """Length of a repeated sequence; 0 when neither side is one."""
    for sequence, count in ((left, right), (right, left)):
        if hasattr(sequence, "__len__") and isinstance(count, int):
            return len(sequence) * count
    return 0


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it only shows what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the signature of transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - as above
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
