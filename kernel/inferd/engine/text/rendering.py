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

from inferd.engine.text.control import ControlTokens, Prompt, align, marks
from inferd.engine.text.conversation import FIELD, Dicts, Wants, read_messages, read_tools, read_variables
from inferd.engine.text.own import Own, kind, trace
from inferd.errors import ChatTemplateError, InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from inferd.engine.text.control import Places
    from inferd.engine.work import ChatInput

MAX_CHARACTERS: Final = 4 << 20
"""Longest text that a template may give: four times the longest prompt that the kernel takes by default."""

KNOWN_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})
_ROLE: Final = re.compile(r"[\w .-]{1,64}")
_MOST_TRACES: Final = 8  # templates kept with their own marks: clients that say these make new ones
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
        self._traces: dict[tuple[str, str, str], jinja2.Template] = {}

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
        view = _View(self._templates[source], source, self._names(chat), read_tools(chat), read_variables(chat))
        wants = self._wants.setdefault((source, bool(chat.tools_json)), Wants(source))
        messages = read_messages(chat, wants, view.attempt)
        said = [[{n: x for n, x in message.items() if n != "role"} for message in messages], view.tools, view.variables]
        free = marks([messages, said, self._literals, list(self._templates)])
        prompt = self._compose(chat, view, messages, said, free)
        self._check_roles(chat)
        _check_characters(prompt.text)
        if chat.parse_control_tokens:
            return prompt
        return self.controls.guard(prompt, said)

    def _compose(self, chat: ChatInput, view: _View, messages: Dicts, said: Any, free: Iterator[str]) -> Prompt:
        end = next(free) if chat.continue_final_message else ""
        text = view.prompt(messages, end)
        if chat.parse_control_tokens:
            return Prompt(text)
        places = list(self.controls.places(text))
        own = self.controls.foreign(places, said)
        if len(own) == len(places):
            return Prompt(text)
        told = self._traced(view, messages, (text, end), kind(next(free), next(free)))
        own |= (self._neutral(view, messages, text, end) or frozenset()) if told is None else told
        return self.controls.judge(text, own)

    def _traced(self, view: _View, messages: Dicts, given: tuple[str, str], own: type[Own]) -> Places | None:
        """The tokens in a text that the template wrote, or a model said; None where the text is another when traced."""
        text, end = given
        names = {name: own.whole(x) if isinstance(x, str) else x for name, x in view.names.items()}
        traced = _View(self._trace(view.source, own), view.source, names, view.tools, view.variables)
        try:
            told = own.read(traced.prompt([self._tell(message, own) for message in messages], end))
        except Exception:  # noqa: BLE001 - the template is foreign code: it may bear no other kind of text
            return None
        written = "".join(told)
        return align(frozenset(self.controls.places(written, told.spans)), written, text)

    def _trace(self, source: str, own: type[Own]) -> jinja2.Template:
        key = source, own.begin, own.end
        if key not in self._traces:
            if len(self._traces) >= _MOST_TRACES:
                self._traces.clear()
            self._traces[key] = trace(self._environment, source, own)
        return self._traces[key]

    def _tell(self, message: dict[str, Any], own: type[Own]) -> dict[str, Any]:
        """A message whose role is the template's, and in which what a model said knows its tokens."""

        def hear(text: str) -> str:
            spans = self.controls.spoken(text)
            return own(text, spans) if spans else text

        said = _each(message, hear) if message["role"] in MODEL_ROLES else message
        return said | {"role": own.whole(message["role"])}

    def _neutral(self, view: _View, messages: Dicts, text: str, end: str) -> Places | None:
        """The tokens that are in the same places when what is said is of the same shape, and says nothing."""
        mute = _View(view.template, view.source, view.names, _each(view.tools, _muted), _each(view.variables, _muted))
        try:
            other = mute.prompt([_each(message, _muted) | {"role": message["role"]} for message in messages], end)
        except Exception:  # noqa: BLE001 - as above
            return None
        if len(other) != len(text):
            return None
        return frozenset((at, token) for at, token in self.controls.places(other) if text.startswith(token, at))

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


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """A value as it comes from JSON with all its strings changed, names apart."""
    match value:
        case str():
            return change(value)
        case dict():
            return {name: _each(item, change) for name, item in value.items()}
        case list():
            return [_each(item, change) for item in value]
        case _:
            return value


def _muted(text: str) -> str:
    return re.sub(r"\S", "x", text)


@dataclass(frozen=True, slots=True)
class _View:
    """A template and what it sees besides messages."""

    template: jinja2.Template
    source: str
    names: dict[str, Any]
    tools: list[Any] | None
    variables: dict[str, Any]

    def prompt(self, messages: Dicts, end: str) -> str:
        """The text, up to where the content of the last message ends if there is a mark for that."""
        return _open_end(self.render(_left_open(messages, end)), end)

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
        return [*others, last | {"content": content + f"{mark} "}]
    *parts, end = content
    if "text" not in end:
        field = f"{FIELD}.continue_final_message"
        raise InvalidFieldError("the last message ends with an image, which cannot be gone on with", field=field)
    return [*others, last | {"content": [*parts, end | {"text": end["text"] + f"{mark} "}]}]


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
