"""What a client says of calls (`tool_choice`, `parallel_tool_calls`, `strict`) as a grammar for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferd.http.tools.formats.table import FORMATS, format_of
from inferd.http.tools.lark import Lark
from inferd.http.tools.writings import WRITINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.http.tools.formats.table import Format
    from inferd.http.tools.thinking import Thinking
    from inferd.http.tools.writings import Writing

SHORTEST_OPENER: Final = 3
"""Characters of what begins a call, so that other text can do without."""
AUTO, NONE, REQUIRED = "auto", "none", "required"


class ChoiceError(ValueError):
    """What a client asks for cannot be had.

    Attributes:
        field: Which field of its request is at fault.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Enforced:
    """What a choice means for a task.

    Attributes:
        tools: Those to offer to the model.
        lark: The grammar of its output, for `Grammar(lark=…)`; "" where it may write anything.
        unenforced: What of the choice is left to the model, in words for people; none where all holds.
    """

    tools: tuple[Mapping[str, Any], ...]
    lark: str = ""
    unenforced: tuple[str, ...] = ()


def enforce(
    form: str,
    tools: Sequence[Mapping[str, Any]],
    choice: str | Mapping[str, Any] = AUTO,
    *,
    parallel: bool = True,
    thinks: bool = True,
    prompt_end: str = "",
    silent: Mapping[str, int] | None = None,
) -> Enforced:
    """What has a model keep to a choice.

    Args:
        form: As of `parser_for`.
        tools: As of `parser_for`.
        choice: "auto", "none", "required", the name of a tool, or the object by which OpenAI's interface names one.
        parallel: Whether an answer may have several calls; one of a tool that is named is alone.
        thinks: Whether the model may think before, as its format has it.
        prompt_end: As of `parser_for`.
        silent: Which of the format's markers are control tokens of the model that give no text, and their ids.

    Raises:
        ChoiceError: There is no such choice, or the model's format has no calls.
    """
    name = _name_of(choice)
    if name == NONE or not tools:
        if name not in (NONE, AUTO):
            raise ChoiceError(
                f'tool_choice is {name!r}, and there are no tools; send some, or "none"', field="tool_choice"
            )
        return Enforced(())
    wanted = (
        tuple(tools) if name in (AUTO, REQUIRED) else tuple(tool for tool in tools if _function(tool)["name"] == name)
    )
    if not wanted:
        known = ", ".join(sorted(_function(tool)["name"] for tool in tools))
        raise ChoiceError(
            f"tool_choice names {name!r}, which is none of the tools; there are {known}", field="tool_choice"
        )
    found = FORMATS.get(form) or format_of(form)
    writing = WRITINGS.get(found.name)
    strict = any(_function(tool).get("strict") is True for tool in wanted)
    if name == AUTO and parallel and not strict:
        return Enforced(wanted)
    parallel = parallel and name in (AUTO, REQUIRED)  # a tool that is named is called once
    lark = Lark(silent or {})
    thoughts = _thoughts(lark, found.thinking, writing, prompt_end) if thinks else ""
    if name == AUTO:
        return _auto(found, writing, wanted, lark, thoughts, parallel=parallel)
    if writing is None:
        raise ChoiceError(
            f"tool_choice is {name!r}, and how the model writes calls is not known ({found.name}); "
            "name its format in the configuration, or send tool_choice auto",
            field="tool_choice",
        )
    return Enforced(tuple(tools), lark.whole(f"{thoughts} {_calls(lark, writing, wanted, parallel=parallel)}".strip()))


def _auto(
    form: Format,
    writing: Writing | None,
    tools: tuple[Mapping[str, Any], ...],
    lark: Lark,
    thoughts: str,
    *,
    parallel: bool,
) -> Enforced:
    """Any text, and behind it calls that are right."""
    opener = "" if writing is None else _opener(writing)
    if writing is None or len(opener) < SHORTEST_OPENER or form.structured:
        cause = f"{form.name} has no sure begin of a call"
        said = f"strict and parallel_tool_calls are not enforced beside tool_choice auto: {cause}"
        return Enforced(tools, unenforced=(said,))
    calls = _calls(lark, writing, tools, parallel=parallel, after=opener)
    free = lark.without(opener)
    return Enforced(tools, lark.whole(f"{thoughts} ({free} | {lark.until(opener)} {calls})".strip()))


def _opener(writing: Writing) -> str:
    """What every call begins with: up to what differs, or is no text."""
    text = writing.begin or writing.head
    return text[: min((at for at in (text.find("{name}"), text.find("{quoted}")) if at >= 0), default=len(text))]


def _calls(lark: Lark, writing: Writing, tools: Sequence[Mapping[str, Any]], *, parallel: bool, after: str = "") -> str:
    functions = [_function(tool) for tool in tools]
    rules = [(function["name"], _schema(function)) for function in functions]
    first = lark.some(
        [writing.call(lark, name, schema, after="" if writing.begin else after) for name, schema in rules]
    )
    parts = [first]
    if parallel and writing.between is not None:
        following = lark.some([writing.call(lark, name, schema) for name, schema in rules]) if after else first
        between = f"{lark.text(writing.between)} " if writing.between else ""
        parts.append(f"({between}{following})*")
    if begin := writing.begin.removeprefix(after):
        parts.insert(0, lark.text(begin))
    if writing.end:
        parts.append(lark.text(writing.end))
    return lark.rule(" ".join(parts))


def _thoughts(lark: Lark, thinking: Thinking | None, writing: Writing | None, prompt_end: str) -> str:
    """What the model may think before, where it does that."""
    begin, end = writing.thoughts if writing is not None and writing.thoughts else ("", "")
    if thinking is not None:
        begin, end = thinking.begin, thinking.end
    if not begin or prompt_end.rstrip().endswith(end):
        return ""
    spaces = "/\\n{0,2}/"
    if prompt_end.rstrip().endswith(begin):
        return lark.rule(f"{lark.until(end)} {spaces}")
    return f"({lark.rule(f'{lark.text(begin)} {lark.until(end)} {spaces}')})?"


def _schema(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a tool's arguments; of one that is strict no others than those."""
    schema: Mapping[str, Any] = function.get("parameters") or {"type": "object", "properties": {}}
    if function.get("strict") is True or not schema.get("properties"):
        schema = {"additionalProperties": False, **schema}
    return schema


def _name_of(choice: str | Mapping[str, Any]) -> str:
    if isinstance(choice, str):
        return choice
    function = choice.get("function", choice)
    name = function.get("name") if choice.get("type", "function") == "function" else None
    if not isinstance(name, str):
        raise ChoiceError(
            'tool_choice is none of "auto", "none", "required" and {"type": "function", "function": {"name": …}}',
            field="tool_choice",
        )
    return name


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function: Mapping[str, Any] = tool.get("function", tool)
    return function
