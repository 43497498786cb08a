"""Answers with calls of tools as models of each family write them, made of what they are to say."""
# ruff: noqa: RUF001 - markers as models write them

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Call = tuple[str, Mapping[str, Any]]
"""The name of a tool and its arguments."""

TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "places": {"type": "array"},
                    "filters": {"type": "object"},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def dumped(value: Any) -> str:
    """JSON as templates write it."""
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """An argument as formats write it that have no quotes."""
    return value if isinstance(value, str) else dumped(value)


@dataclass(frozen=True)
class Family:
    """How a family writes.

    Attributes:
        form: The name of its format.
        calls: Writes calls.
        think: Before and behind what is thought.
        glue: Between content and calls.
        most: Calls of one answer.
    """

    form: str
    calls: Callable[[Sequence[Call]], str]
    think: tuple[str, str] | None = ("<think>\n", "\n</think>\n\n")
    glue: str = "\n"
    most: int = 3


def _each(write: Callable[[str, Mapping[str, Any]], str], between: str = "") -> Callable[[Sequence[Call]], str]:
    return lambda calls: between.join(write(name, arguments) for name, arguments in calls)


def _array(calls: Sequence[Call], *, arguments: str = "arguments", name: str = "name") -> str:
    return dumped([{name: called, arguments: given} for called, given in calls])


def _functions(name: str, arguments: Mapping[str, Any]) -> str:
    members = "".join(f"<parameter={key}>\n{plain(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{members}</function>\n</tool_call>"


def _glm(line: str) -> Callable[[str, Mapping[str, Any]], str]:
    def write(name: str, arguments: Mapping[str, Any]) -> str:
        members = "".join(
            f"<arg_key>{key}</arg_key>{line}<arg_value>{plain(value)}</arg_value>{line}"
            for key, value in arguments.items()
        )
        return f"<tool_call>{name}{line}{members}</tool_call>"

    return write


def _invokes(outer: str, before: str, *, typed: bool) -> Callable[[Sequence[Call]], str]:
    def member(key: str, value: Any) -> str:
        said = f' string="{"true" if isinstance(value, str) else "false"}"' if typed else ""
        return f'<{before}parameter name="{key}"{said}>{plain(value)}</{before}parameter>\n'

    def write(calls: Sequence[Call]) -> str:
        inner = "".join(
            f'<{before}invoke name="{name}">\n{"".join(member(*item) for item in given.items())}</{before}invoke>\n'
            for name, given in calls
        )
        return f"<{outer}>\n{inner}</{outer}>"

    return write


def _deepseek(calls: Sequence[Call]) -> str:
    inner = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumped(given)}\n```<｜tool▁call▁end｜>"
        for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def _deepseek31(calls: Sequence[Call]) -> str:
    inner = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumped(given)}<｜tool▁call▁end｜>" for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def _kimi(calls: Sequence[Call]) -> str:
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{dumped(given)}<|tool_call_end|>"
        for index, (name, given) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def _python(value: Any) -> str:
    return repr(value)


def _pythonic(calls: Sequence[Call]) -> str:
    inner = ", ".join(
        f"{name}({', '.join(f'{key}={_python(value)}' for key, value in given.items())})" for name, given in calls
    )
    return f"[{inner}]"


def _gemma_value(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_gemma_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma_value, value)) + "]"
    return dumped(value)


def _xtml(calls: Sequence[Call]) -> str:
    names = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}

    def argument(key: str, value: Any) -> str:
        kind = names.get(type(value), "null")
        return f'<|open|>argument key="{key}" type="{kind}"<|sep|>{plain(value)}<|close|>argument<|sep|>'

    inner = "".join(
        f'<|open|>call tool="{name}" index="{index}"<|sep|>'
        f"{''.join(argument(*item) for item in given.items())}<|close|>call<|sep|>"
        for index, (name, given) in enumerate(calls, 1)
    )
    return f"<|open|>tools<|sep|>{inner}<|close|>tools<|sep|>"


FAMILIES: Final = (
    Family("hermes", _each(lambda n, a: f"<tool_call>\n{dumped({'name': n, 'arguments': a})}\n</tool_call>", "\n")),
    Family("qwen3_coder", _each(_functions, "\n"), glue="\n\n"),
    Family("glm", _each(_glm("\n"), "\n")),
    Family("glm", _each(_glm("")), glue=""),
    Family("deepseek_v3", _deepseek, glue=""),
    Family("deepseek_v3", _deepseek31, glue=""),
    Family("deepseek_v32", _invokes("｜DSML｜function_calls", "｜DSML｜", typed=True), glue="\n\n"),
    Family("deepseek_v32", _invokes("｜DSML｜tool_calls", "｜DSML｜", typed=True), glue="\n\n"),
    Family("deepseek_v32", _invokes("｜DSML｜ calls", "｜DSML｜ ", typed=True), glue="\n\n"),
    Family("minimax_m2", _invokes("minimax:tool_call", "", typed=False)),
    Family("kimi_k2", _kimi, glue=""),
    Family("kimi_k3", _xtml, think=("<|open|>think<|sep|>", "<|close|>think<|sep|>"), glue=""),
    Family("mistral", _each(lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{dumped(a)}"), think=("[THINK]", "[/THINK]"), glue=""),
    Family(
        "mistral",
        _each(lambda n, a: f"[TOOL_CALLS]{n}[CALL_ID]abcDEF123[ARGS]{dumped(a)}"),
        think=("[THINK]", "[/THINK]"),
        glue="",
    ),
    Family("mistral", lambda calls: f"[TOOL_CALLS]{_array(calls)}", think=None, glue=""),
    Family("granite", lambda calls: f"<|tool_call|>{_array(calls)}"),
    Family("phi4", lambda calls: f"<|tool_call|>{_array(calls)}<|/tool_call|>"),
    Family("nemotron", lambda calls: f"<TOOLCALL>{_array(calls)}</TOOLCALL>"),
    Family(
        "command_r",
        lambda calls: f"<|START_ACTION|>{_array(calls, arguments='parameters', name='tool_name')}<|END_ACTION|>",
        think=None,
    ),
    Family("functions", _each(lambda n, a: f"<function={n}>{dumped(a)}</function>"), think=None),
    Family("functionary", _each(lambda n, a: f">>>{n}\n{dumped(a)}", "\n"), think=None),
    Family("llama3", _each(lambda n, a: dumped({"name": n, "parameters": a}), "; "), think=None),
    Family(
        "llama3",
        _each(lambda n, a: f"<|python_tag|>{dumped({'type': 'function', 'name': n, 'parameters': a})}"),
        think=None,
    ),
    Family("llama4", _pythonic, think=None),
    Family(
        "gemma4",
        _each(lambda n, a: f"<|tool_call>call:{n}{_gemma_value(a)}<tool_call|>"),
        think=("<|channel>thought\n", "\n<channel|>"),
        glue="",
    ),
)
"""All of them but Harmony, of which the content stands between markers, too."""
