"""How each format writes a call that is right, for grammars that let a model write no other."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferd.http.tools.schema import part_of, types_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.http.tools.lark import Lark
    from inferd.http.tools.schema import Schema

MARKER: Final = re.compile(r"<[^<>{}\s]+>|\[/?[A-Z_]+\]")
"""What names of control tokens look like."""
_DSML: Final = "｜DSML｜"  # noqa: RUF001 - as the model writes it


@dataclass(frozen=True, slots=True)
class Writing:
    """How a format writes calls.

    In texts, {name} is the name of the tool, {quoted} that as JSON, and {number} any number.

    Attributes:
        head: Before the arguments of a call.
        tail: Behind them.
        begin: Before all calls.
        end: Behind all calls.
        between: Between two calls; None where an answer has one call at most.
        members: How it writes each argument; None where the arguments are a JSON object.
        thoughts: Before and behind what it thinks, where its parser knows that by itself.
    """

    head: str
    tail: str
    begin: str = ""
    end: str = ""
    between: str | None = ""
    members: Members | None = None
    thoughts: tuple[str, str] | None = None

    def call(self, lark: Lark, name: str, schema: Schema, *, after: str = "") -> str:
        """The rule of a call of a tool, behind a part of its head that is there already."""
        head = self.head.replace("{name}", name).replace("{quoted}", json.dumps(name, ensure_ascii=False))
        arguments = self.members.rules(lark, schema) if self.members else lark.json(_as_object(schema))
        head = head.removeprefix(after)
        left, number, right = head.partition("{number}")
        before = f"{lark.text(left)} /[0-9]{{1,4}}/ {lark.text(right)}" if number else lark.text(head)
        return lark.rule(
            " ".join(part for part in (before, arguments, lark.text(self.tail) if self.tail else "") if part)
        )

    def markers(self) -> frozenset[str]:
        """What may be control tokens in it."""
        members = self.members
        texts = [self.head, self.tail, self.begin, self.end, self.between or ""]
        texts += [members.before, members.after, members.text_end, members.quote] if members else []
        return frozenset(found for text in texts for found in MARKER.findall(text))


@dataclass(frozen=True, slots=True)
class Members:
    """How a format writes arguments one by one. In texts, {key} is the name of one, and {string} whether it is one.

    Attributes:
        before: Before the value of one.
        after: Behind the value of one that is no string, or is quoted.
        text_end: Behind a string that is written as it is; "" where strings are written as JSON.
        text_begin: Before one.
        between: Between two.
        quote: Around strings, in objects and arrays too, which are written alike then; "" where these are JSON.
    """

    before: str
    after: str = ""
    text_end: str = ""
    text_begin: str = ""
    between: str = ""
    quote: str = ""

    def rules(self, lark: Lark, schema: Schema) -> str:
        """What all arguments may be: those that are required, and the others or not, as the schema orders them."""
        return self._members(lark, schema, schema)

    def _members(self, lark: Lark, schema: Schema, root: Schema) -> str:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = set(schema.get("required") or ())
        some, none = "", ""  # what follows where there is one before, and where there is none
        for key, part in reversed(list(properties.items())):
            member = self._member(lark, key, part_of(part, root))
            next_one = f"{lark.text(self.between)} {member}" if self.between else member
            if key in required:
                some, none = lark.rule(f"{next_one} {some}"), lark.rule(f"{member} {some}")
            else:
                some, none = (
                    lark.rule(f"({next_one})? {some}"),
                    lark.rule(f"{member} {some} | {none}") if none else lark.rule(f"({member} {some})?"),
                )
        return none

    def _member(self, lark: Lark, key: str, schema: Schema) -> str:
        if self.quote:
            return lark.rule(f"{lark.text(self.before.replace('{key}', key))} {self._quoted(lark, schema)}")
        types = types_of(schema)
        plain = bool(self.text_end) and types == {"string"}
        before = self.before.replace("{key}", key).replace("{string}", "true" if plain else "false")
        kind = next(iter(types), "string") if len(types) == 1 else "object"
        before = before.replace("{type}", "number" if kind == "integer" else kind)
        if not plain:
            return lark.rule(f"{lark.text(before)} {lark.json(schema)}{self._after(lark)}")
        choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if choices:
            value = lark.some([lark.text(f"{choice}{self.text_end}") for choice in choices])
        else:
            value = lark.until(self.text_end)
        return lark.rule(f"{lark.text(before + self.text_begin)} {value}")

    def _quoted(self, lark: Lark, schema: Schema) -> str:
        """A value in a notation like JSON's, with keys without quotes and strings in others."""
        choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if choices:
            return lark.some(
                [
                    lark.text(f"{self.quote}{each}{self.quote}" if isinstance(each, str) else json.dumps(each))
                    for each in choices
                ]
            )
        types = types_of(schema) or {"string", "number", "boolean"}
        return lark.some([self._of_type(lark, kind, schema) for kind in sorted(types)])

    def _of_type(self, lark: Lark, kind: str, schema: Schema) -> str:
        if kind == "string":
            return f"{lark.text(self.quote)} {lark.until(self.quote)}"
        if kind == "object":
            return " ".join(
                part for part in (lark.text("{"), self._members(lark, schema, schema), lark.text("}")) if part
            )
        if kind == "array":
            items = schema.get("items")
            item = self._quoted(lark, part_of(items if isinstance(items, dict) else {}, schema))
            return f"{lark.text('[')} ({item} ({lark.text(',')} {item})*)? {lark.text(']')}"
        limits = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
        return lark.json({"type": kind, **{name: schema[name] for name in limits if name in schema}})

    def _after(self, lark: Lark) -> str:
        return f" {lark.text(self.after)}" if self.after else ""


def _as_object(schema: Schema) -> Schema:
    return {"type": "object", **schema}


def _invokes(outer: str, before: str, element: str) -> Writing:
    return Writing(
        head=f'<{before}invoke name="{{name}}">\n',
        tail=f"</{before}invoke>\n",
        begin=f"<{outer}>\n",
        end=f"</{outer}>",
        members=Members(element, f"</{before}parameter>\n", f"</{before}parameter>\n"),
    )


def _dsml(name: str, space: str = "") -> Writing:
    before = f"{_DSML}{space}"
    return _invokes(f"{_DSML}{name}", before, f'<{before}parameter name="{{key}}" string="{{string}}">')


def _functions(outer: str) -> Writing:
    return Writing(
        head=f"<{outer}>\n<function={{name}}>\n",
        tail=f"</function>\n</{outer}>",
        between="\n",
        members=Members("<parameter={key}>\n", "\n</parameter>\n", "\n</parameter>\n"),
    )


def _tagged(begin: str, end: str, *, argument: str = "arguments", name: str = "name") -> Writing:
    """An array of calls between markers."""
    return Writing(f'{{"{name}": {{quoted}}, "{argument}": ', "}", begin=f"{begin}[", end=f"]{end}", between=", ")


_CALL, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001

WRITINGS: Final[Mapping[str, Writing]] = {
    "hermes": Writing('<tool_call>\n{"name": {quoted}, "arguments": ', "}\n</tool_call>", between="\n"),
    "qwen3_coder": _functions("tool_call"),
    "seed_oss": _functions("seed:tool_call"),
    "glm": Writing(
        "<tool_call>{name}\n",
        "</tool_call>",
        between="\n",
        members=Members("<arg_key>{key}</arg_key>\n<arg_value>", "</arg_value>\n", "</arg_value>\n"),
    ),
    "glm47": Writing(
        "<tool_call>{name}",
        "</tool_call>",
        members=Members("<arg_key>{key}</arg_key><arg_value>", "</arg_value>", "</arg_value>"),
    ),
    "deepseek_v3": Writing(f"{_CALL}function{_SEP}{{name}}\n```json\n", f"\n```{_END}", _CALLS, _CALLS_END, "\n"),
    "deepseek_v31": Writing(f"{_CALL}{{name}}{_SEP}", _END, _CALLS, _CALLS_END),
    "deepseek_v32": _dsml("function_calls"),
    "deepseek_v4": _dsml("tool_calls"),
    "deepseek_v41": _dsml(" calls", " "),
    "minimax_m2": _invokes("minimax:tool_call", "", '<parameter name="{key}">'),
    "kimi_k2": Writing(
        "<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
    ),
    "kimi_k3": Writing(
        '<|open|>call tool="{name}" index="1"<|sep|>',
        "<|close|>call<|sep|>",
        "<|open|>response<|sep|><|close|>response<|sep|><|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
        between=None,
        members=Members(
            '<|open|>argument key="{key}" type="{type}"<|sep|>',
            "<|close|>argument<|sep|>",
            "<|close|>argument<|sep|>",
        ),
    ),
    "mistral": Writing("[TOOL_CALLS]{name}[ARGS]", ""),
    "mistral_v3": _tagged("[TOOL_CALLS]", ""),
    "llama3": Writing('{"name": {quoted}, "parameters": ', "}", between=None),
    "llama4": Writing("{name}(", ")", "[", "]", between=", ", members=Members("{key}=", between=", ")),
    "granite": _tagged("<|tool_call|>", ""),
    "phi4": _tagged("<|tool_call|>", "<|/tool_call|>"),
    "nemotron": _tagged("<TOOLCALL>", "</TOOLCALL>"),
    "command_r": _tagged("<|START_ACTION|>", "<|END_ACTION|>", argument="parameters", name="tool_name"),
    "functions": Writing("<function={name}>", "</function>"),
    "functionary": Writing(">>>{name}\n", "", between="\n"),
    "harmony": Writing(
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        "",
        between=None,
        thoughts=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    ),
    "gemma4": Writing(
        "<|tool_call>call:{name}{", "}<tool_call|>", members=Members("{key}:", between=",", quote='<|"|>')
    ),
}
"""By the name of the format."""
