"""From a conversation to a prompt: which template, what it is given, and which control tokens are its own.

Pure: it knows no time limit and no thread, see `ChatTemplate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jinja2
from jinja2 import nodes

from inferd.engine.control import ControlTokens, Marks, Prompt, align
from inferd.engine.conversation import FIELD, Dicts, Wants, read_messages, read_tools, read_variables
from inferd.errors import ChatTemplateError, InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.task import ChatInput

MAX_CHARACTERS: Final = 4 << 20
"""Longest text that a template may give: four times the longest prompt that the kernel takes by default."""

KNOWN_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})
_ROLE: Final = re.compile(r"[\w .-]{1,64}")
MODEL_ROLES: Final = frozenset({"assistant", "model"})  # whose words are the model's


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTexts:
    """The templates of a model and what they are told of its tokens.

    Attributes:
        source: Jinja text of the template for everything.
        tool_use: Of the one for conversations with tools; None where there is none.
        bos: What a template sees as `bos_token`.
        eos: What a template sees as `eos_token`.
        added: The tokens that are recognised inside any text, and whether each is special.
        normalize: See `ControlTokens`.
    """

    source: str
    tool_use: str | None = None
    bos: str = ""
    eos: str = ""
    added: Mapping[str, bool] | None = None
    normalize: Callable[[str], str] | None = None


class Renderer:
    """Renders the conversations of one model.

    Args:
        environment: Where its templates run.
        texts: Its templates.
    """

    def __init__(self, environment: Callable[[], jinja2.Environment], texts: TemplateTexts) -> None:
        self._make_environment = environment
        self._texts = texts
        self._wants: dict[tuple[str, bool], Wants] = {}  # by template, and whether there are tools

    @cached_property
    def _environment(self) -> jinja2.Environment:
        return self._make_environment()

    @cached_property
    def _templates(self) -> dict[str, jinja2.Template]:
        sources = [self._texts.source, *([self._texts.tool_use] if self._texts.tool_use is not None else [])]
        return {source: self._environment.from_string(source) for source in sources}

    @cached_property
    def _literals(self) -> frozenset[str]:
        """What the templates write and look for."""
        trees = [self._environment.parse(source) for source in self._templates]
        data = {node.data for tree in trees for node in tree.find_all(nodes.TemplateData)}
        constants = {node.value for tree in trees for node in tree.find_all(nodes.Const)}
        return frozenset(data | {text for text in constants if isinstance(text, str)})

    @cached_property
    def controls(self) -> ControlTokens:
        """The control tokens of the model."""
        added = {} if self._texts.added is None else self._texts.added
        return ControlTokens(added, self._literals, self._texts.normalize)

    def compose(self, chat: ChatInput) -> Prompt:
        """The text of a conversation, up to where the model's answer begins.

        Raises:
            ChatTemplateError: The template leaves out the message that is to be continued.
            InvalidFieldError: Tools or calls of tools are no JSON array of objects, or there is no such role.
            Exception: Whatever the template raises.
        """
        source = self._texts.source
        if chat.tools_json and self._texts.tool_use is not None:
            source = self._texts.tool_use
        view = _View(self._templates[source], self._names(chat), read_tools(chat), read_variables(chat))
        wants = self._wants.setdefault((source, bool(chat.tools_json)), Wants(source))
        messages = read_messages(chat, wants, view.attempt)
        marks = Marks(self.controls, [messages, view.tools, view.variables, self._literals, list(self._templates)])
        prompt = self._compose(chat, view, messages, marks)
        self._check_roles(chat)
        _check_characters(prompt.text)
        if chat.parse_control_tokens:
            return prompt
        return self.controls.guard(prompt, [messages, view.tools, view.variables])

    def _compose(self, chat: ChatInput, view: _View, messages: Dicts, marks: Marks) -> Prompt:
        continued = marks.end if chat.continue_final_message else ""
        text = _open_end(view.render(_left_open(messages, continued)), continued)
        if chat.parse_control_tokens:
            return Prompt(text)
        marked = [_mark(message, marks) for message in messages]
        hedged = _View(view.template, view.names, marks.mark(view.tools), marks.mark(view.variables))
        if marked == messages and hedged == view:
            return Prompt(text)
        prompt = marks.read(_open_end(hedged.render(_left_open(marked, continued)), continued))
        return align(prompt, text) or prompt

    def _names(self, chat: ChatInput) -> dict[str, Any]:
        return {
            "bos_token": self._texts.bos,
            "eos_token": self._texts.eos,
            "add_generation_prompt": chat.add_generation_prompt,
        }

    def _check_roles(self, chat: ChatInput) -> None:
        """Behind the rendering, so that what the template says of a role comes first."""
        if chat.parse_control_tokens:
            return
        for n, message in enumerate(chat.messages):
            if message.role not in KNOWN_ROLES and not (
                _ROLE.fullmatch(message.role) and message.role in self._literals
            ):
                field = f"{FIELD}.messages[{n}].role"
                known = ", ".join(sorted(KNOWN_ROLES))
                raise InvalidFieldError(
                    f"{field} is {message.role!r}, which is none of {known}, nor a role that the model's chat template "
                    "names; a client that trusts all that it sends may set parse_control_tokens",
                    field=field,
                )


def _mark(message: dict[str, Any], marks: Marks) -> dict[str, Any]:
    model_says = message["role"] in MODEL_ROLES
    return {n: said if n == "role" else marks.mark(said, model_says=model_says) for n, said in message.items()}


@dataclass(frozen=True, slots=True)
class _View:
    """A template and what it sees besides messages."""

    template: jinja2.Template
    names: dict[str, Any]
    tools: list[Any] | None
    variables: dict[str, Any]

    def render(self, messages: Dicts) -> str:
        pieces, length = [], 0
        for piece in self.template.generate(messages=messages, tools=self.tools, **self.variables, **self.names):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise ValueError(f"its text has more than {MAX_CHARACTERS} characters")
        return "".join(pieces)

    def attempt(self, messages: Dicts) -> str | None:
        try:
            return self.render(messages)
        except Exception:  # noqa: BLE001 - the template is foreign code: whatever it raises, it refuses
            return None


def _left_open(messages: Dicts, mark: str) -> Dicts:
    """The messages, the content of the last one with a mark and a space behind it."""
    if not mark:
        return messages
    *others, last = messages
    content = last["content"]
    if isinstance(content, str):
        return [*others, last | {"content": f"{content}{mark} "}]
    *parts, end = content
    return [*others, last | {"content": [*parts, end | {"text": f"{end['text']}{mark} "}]}]


def _open_end(text: str, mark: str) -> str:
    """A rendered text up to a mark; where the template trimmed the space behind it, it would have trimmed before it.

    Raises:
        ChatTemplateError: There is no mark.
    """
    if not mark:
        return text
    at = text.rfind(mark)
    if at < 0:
        raise ChatTemplateError(
            "the chat template of the model leaves out the last message, so it cannot be continued; "
            "leave continue_final_message out"
        )
    kept = text[:at]
    return kept if text.startswith(f"{mark} ", at) else kept.rstrip()


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidFieldError(
            f"{FIELD} has half a character, \\u{ord(text[error.start]):04x}, which no text can have", field=FIELD
        ) from None
