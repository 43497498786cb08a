"""How the answers of a model are read: contents, reasoning and calls of tools in what it writes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inferd.http.chunks import Plain
from inferd.http.problems import Refusal
from inferd.http.streams import dumps
from inferd.http.thoughts import Thoughts
from inferd.http.tools.choice import AUTO, ChoiceError, enforce
from inferd.http.tools.deltas import Arguments, CallBegun, CallEnded, Content, Reasoning, Stray
from inferd.http.tools.efforts import template_variables
from inferd.http.tools.formats.table import FORMATS, PLAIN, format_of
from inferd.http.tools.history import with_fitting_ids
from inferd.http.tools.markers import silent_markers
from inferd.http.tools.parser import parser_for
from inferd.http.tools.sink import fresh_id
from inferd.http.tools.spelling import Spelling
from inferd_client import Grammar
from inferd_client.errors import ChatTemplateError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.http.chunks import Reader
    from inferd.http.token_texts import Remembered, TokenTexts
    from inferd.http.tools.deltas import Delta
    from inferd.http.tools.formats.table import Format
    from inferd_api.v1.model_service_pb2 import ModelWriting
    from inferd_client import AsyncClient

LAST_TOKENS: Final = 16
"""Tokens of a prompt's end that tell whether the model's thoughts have begun."""
MOST_ENDS: Final = 256
"""Ends of prompts that are remembered."""
RENDERING: Final = ("template_variables", "add_generation_prompt", "continue_final_message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request says of calls and thoughts.

    Attributes:
        tools: That are offered.
        choice: Which are to be called.
        parallel: Whether several may be.
        effort: How much the model is to think; None where nothing is said.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    choice: Any = AUTO
    parallel: bool = True
    effort: str | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is said."""
        return not self.tools and self.choice in (AUTO, "none") and self.effort is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How a model's answers to one request are read.

    Attributes:
        form: The format of its calls.
        tools: That were offered.
        prompt_end: What the prompt ends with.
        names: Control tokens that the format is made of, by id.
        held_chars: Characters of a call that are held back until it is whole.
        thinks: Whether the model thinks, as its template knows that.
    """

    form: Format = PLAIN
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt_end: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    held_chars: int = sys.maxsize
    thinks: bool = False

    def reader(self, texts: TokenTexts | None, make_id: Callable[[], str] = fresh_id) -> Reader:
        """A reader of one sample; `make_id` gives the ids of calls, where the format has none."""
        if not (self.tools or self.thinks or self.form.structured):
            return Plain()
        return Spoken(self, texts, make_id)


class Speeches:
    """Finds how the answers of models are read. One writer: the gateway's loop.

    Args:
        remembered: Writings of models.
        formats: Names of formats by model, where the chat template does not tell.
        held_chars: As of `Speech`, for answers that are streamed.
    """

    def __init__(self, remembered: Remembered, formats: Mapping[str, str], held_chars: int) -> None:
        self._remembered = remembered
        self._formats = formats
        self._held_chars = held_chars
        self._ends: dict[tuple[AsyncClient, str, int, str], str] = {}

    async def options(self, client: AsyncClient, model: str, wish: Wish, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a wish adds to the options of a task.

        Raises:
            Refusal: It cannot be had.
            InferdError: As of `model_writing`.
        """
        if wish.plain:
            return {}
        writing = await client.model_writing(model)  # of the version that serves now
        found: dict[str, Any] = {}
        variables = dict(given.get("template_variables") or {})
        if wish.effort is not None:
            variables = template_variables(writing.chat_template, effort=wish.effort, given=variables)
            found["template_variables"] = variables
        form = self._form(model, writing)
        silent = silent_markers(form, writing.control_tokens)
        end = await self._prompt_end((client, model, 0), form, writing, {**given, "template_variables": variables})
        try:
            enforced = enforce(
                form.name,
                wish.tools,
                wish.choice,
                parallel=wish.parallel,
                thinks=form.structured or _thinks(form, writing),
                prompt_end=end,
                silent={text: token_id for token_id, text in silent.items()},
            )
        except ChoiceError as error:
            raise Refusal(str(error), param=error.field) from None
        if enforced.tools:
            found["tools"] = [dict(tool) for tool in enforced.tools]
        if enforced.lark:
            if given.get("grammar") is not None:
                message = "tools that are enforced (tool_choice, strict, parallel_tool_calls) exclude response_format"
                raise Refusal(f"{message}; leave one of them out", param="tool_choice")
            found["grammar"] = Grammar(lark=enforced.lark)
        return found

    async def messages(self, client: AsyncClient, model: str, messages: Any) -> Any:
        """The messages of a conversation as the model's template takes them.

        Raises:
            InferdError: As of `model_writing`.
        """
        if isinstance(messages, str) or not any(message.get("tool_calls") for message in messages):
            return messages
        form = self._form(model, await client.model_writing(model))
        return with_fitting_ids(messages, form.name)

    async def of(
        self, client: AsyncClient, model: str, version: int, options: Mapping[str, Any], *, streamed: bool
    ) -> Speech:
        """How the answers to a request are read.

        Raises:
            InferdError: As of `model_writing`.
        """
        writing = await self._remembered.writing(client, model, version)
        form = self._form(model, writing)
        return Speech(
            form=form,
            tools=tuple(options.get("tools") or ()),
            prompt_end=await self._prompt_end((client, model, version), form, writing, options),
            names=silent_markers(form, writing.control_tokens),
            held_chars=self._held_chars if streamed else sys.maxsize,
            thinks=_thinks(form, writing),
        )

    async def abilities(self, client: AsyncClient, model: str, version: int) -> list[str]:
        """What a loaded model can besides texts, in Ollama's words, as its template tells.

        Raises:
            InferdError: As of `model_writing`.
        """
        try:
            writing = await self._remembered.writing(client, model, version)
        except UnsupportedInputError:
            return []  # a model of tensors
        form = self._form(model, writing)
        tools = form.name != PLAIN.name or "tools" in writing.chat_template + writing.tool_use_template
        able = {"tools": tools, "thinking": _thinks(form, writing)}
        return [name for name, is_so in able.items() if is_so]

    def forget(self, client: AsyncClient) -> None:
        """Forget what was told to a client that is closed."""
        self._ends = {key: end for key, end in self._ends.items() if key[0] != client}

    def _form(self, model: str, writing: ModelWriting) -> Format:
        named = self._formats.get(model)
        return FORMATS[named] if named else format_of(writing.tool_use_template or writing.chat_template)

    async def _prompt_end(
        self, of: tuple[AsyncClient, str, int], form: Format, writing: ModelWriting, options: Mapping[str, Any]
    ) -> str:
        """What the template puts in front of an answer: asked of a short conversation, once."""
        if not _thinks(form, writing):
            return ""
        said = {name: options[name] for name in RENDERING if options.get(name) is not None}
        if said.get("continue_final_message") or said.get("add_generation_prompt") is False:
            return ""
        client, model, version = of
        key = (*of, dumps(said))
        if version and key in self._ends:
            return self._ends[key]
        try:
            ids = (await client.tokenize(model, [{"role": "user", "content": "x"}], **said))[-LAST_TOKENS:]
        except ChatTemplateError:  # a template that takes no such conversation
            return ""
        pieces = await client.token_pieces(model, ids)
        names = writing.control_tokens
        told = zip(ids, pieces, strict=True)
        end = b"".join(names[token_id].encode() if token_id in names else piece for token_id, piece in told)
        if len(self._ends) >= MOST_ENDS:
            del self._ends[next(iter(self._ends))]
        self._ends[key] = end.decode(errors="replace")
        return self._ends[key]


def _thinks(form: Format, writing: ModelWriting) -> bool:
    """Whether a model thinks, in the markers that a parser has to look for."""
    if form.thinking is None:
        return False
    template = writing.chat_template + writing.tool_use_template
    return form.thinking.begin in template or form.thinking.end in template


class Spoken:
    """Reads one sample in OpenAI's words.

    Args:
        speech: How.
        texts: What the model's tokens are; None where none of its control tokens are markers.
        make_id: As of `Speech.reader`.
    """

    def __init__(self, speech: Speech, texts: TokenTexts | None, make_id: Callable[[], str] = fresh_id) -> None:
        self._parser = parser_for(
            speech.form.name,
            speech.tools,
            prompt_end=speech.prompt_end,
            held_chars=speech.held_chars,
            make_id=make_id,
        )
        self._spelling = Spelling(speech.names, texts.piece) if texts is not None and speech.names else None
        self.called = False
        self.thoughts = Thoughts()

    def feed(self, text: str, token_ids: Sequence[int] = ()) -> Sequence[Mapping[str, Any]]:
        """The deltas that a piece of text completes."""
        self.thoughts.token_ids.extend(token_ids)
        if self._spelling is not None:
            text = self._spelling.add(text, token_ids)
        return self._told(self._parser.feed(text))

    def finish(self, *, cut: bool = False) -> Sequence[Mapping[str, Any]]:
        """Those that its end completes."""
        return self._told(self._parser.finish(cut=cut))

    def _told(self, deltas: list[Delta]) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        for delta in deltas:
            if not isinstance(delta, Reasoning):
                self.thoughts.end()
            match delta:
                case Content(text):
                    told.append({"content": text})
                case Reasoning(text):
                    self.thoughts.think(text)
                    told.append({"reasoning_content": text})
                case CallBegun(index, call_id, name):
                    function = {"name": name, "arguments": ""}
                    told.append(
                        {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
                    )
                case Arguments(index, text):
                    _put(told, index, text)
                case CallEnded(_, complete):
                    self.called = self.called or complete
                case Stray(text):
                    told.append({"unparsed": text})
        return told


def _put(told: list[dict[str, Any]], index: int, text: str) -> None:
    """Say arguments together with the begin of their call, where that is said just now."""
    calls = told[-1].get("tool_calls") if told else None
    if calls and calls[0]["index"] == index:
        calls[0]["function"]["arguments"] += text
    else:
        told.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})


def message_of(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A whole message of its deltas."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in deltas:
        for name, value in delta.items():
            if name != "tool_calls":
                message[name] = value if message.get(name) is None else message[name] + value
                continue
            for call in value:
                calls = message.setdefault("tool_calls", [])
                if "id" in call:
                    calls.append({part: call[part] for part in ("id", "type", "function")})
                else:
                    calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    return message
