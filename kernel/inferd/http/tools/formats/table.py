"""The formats by name, and by what of them shows in a chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.http.tools.formats import elements, harmony, llama, marked, named
from inferd.http.tools.formats.tagged import tagged
from inferd.http.tools.reader import SPACES
from inferd.http.tools.thinking import Thinking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps

_THINK: Final = Thinking("<think>", "</think>")
_MISTRAL_THINK: Final = Thinking("[THINK]", "[/THINK]", other=("<think>", "</think>"))
_DSML: Final = "｜DSML｜"  # noqa: RUF001 - as the model writes it

_OUTER: Final = ("function_calls", "tool_calls", " calls")
_INVOKES: Final = elements.Invokes(
    tuple(f"<{_DSML}{name}>" for name in _OUTER),
    tuple(f"</{_DSML}{name}>" for name in _OUTER),
    (_DSML, _DSML, f"{_DSML} "),
)


@dataclass(frozen=True, slots=True)
class Format:
    """How models of a family write calls and what they think.

    Attributes:
        name: By which it can be chosen.
        parse: Its parser.
        signs: Texts in a chat template that tell it: all of one of these tuples.
        thinking: How it writes what it thinks; None where it does not think, or that is the parser's.
        glue: Characters that its models write between contents and calls.
        more: Markers of it that are neither in `signs` nor in how calls are written.
        structured: Whether its contents too stand between markers, so that it is parsed without tools as well.
    """

    name: str
    parse: Callable[[Parse], Steps[None]]
    signs: tuple[tuple[str, ...], ...] = ()
    thinking: Thinking | None = None
    glue: str = "\n"
    more: tuple[str, ...] = ()
    structured: bool = False


def _plain(p: Parse) -> Steps[None]:
    while True:
        text, _, ended = p.reader.buffer()
        p.sink.content(p.reader.take(len(text)))
        if ended or not (yield from p.reader.more()):
            return


PLAIN: Final = Format("none", _plain, thinking=_THINK)
"""Text without calls."""

_ALL: Final = (
    Format(
        "harmony",
        harmony.harmony,
        (("<|channel|>", "<|message|>"),),
        more=("<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"),
        structured=True,
    ),
    Format(
        "kimi_k3",
        marked.xtml,
        (("<|open|>", "<|sep|>"),),
        Thinking(
            "<|open|>think<|sep|>",
            "<|close|>think<|sep|>",
            calls=("<|open|>response<|sep|>", "<|open|>tools<|sep|>"),
            exact=True,
        ),
        structured=True,
    ),
    Format("gemma4", marked.gemma, (("<|tool_call>",),), Thinking("<|channel>thought", "<channel|>")),
    Format("kimi_k2", named.kimi, (("<|tool_call_begin|>",),), _THINK),
    Format("deepseek_v41", _INVOKES, ((f"<{_DSML} ",),), _THINK),
    Format("deepseek_v32", _INVOKES, ((_DSML, "function_calls"),), _THINK),
    Format("deepseek_v4", _INVOKES, ((_DSML,),), _THINK),
    Format("deepseek_v3", named.deepseek, (("<｜tool▁call▁begin｜>", "```json"),), _THINK),  # noqa: RUF001
    Format("deepseek_v31", named.deepseek, (("<｜tool▁call▁begin｜>",),), _THINK),  # noqa: RUF001
    Format(
        "minimax_m2",
        elements.Invokes(("<minimax:tool_call>",), ("</minimax:tool_call>",), ("",)),
        (("<minimax:tool_call>",),),
        _THINK,
    ),
    Format("glm47", elements.glm, (("</arg_key><arg_value>",),), _THINK, glue=SPACES),
    Format("glm", elements.glm, (("<arg_key>",),), _THINK, glue=SPACES),
    Format(
        "seed_oss",
        elements.functions_of(("<seed:tool_call>",), "</seed:tool_call>"),
        (("<seed:tool_call>",),),
        Thinking("<seed:think>", "</seed:think>"),
    ),
    Format(
        "qwen3_coder",
        elements.functions_of(("<tool_call>",), "</tool_call>"),
        (("<function=", "<parameter="),),
        Thinking("<think>", "</think>", calls=("<tool_call>",)),
    ),
    Format("mistral", named.mistral, (("[TOOL_CALLS]", "[ARGS]"),), _MISTRAL_THINK, more=("[CALL_ID]",)),
    Format("mistral_v3", named.mistral, (("[TOOL_CALLS]",),), _MISTRAL_THINK),
    Format("phi4", tagged(("<|tool_call|>",), ("<|/tool_call|>",)), (("<|/tool_call|>",),), _THINK),
    Format("granite", tagged(("<|tool_call|>", "<tool_call>"), ("</tool_call>",)), (("<|tool_call|>",),), _THINK),
    Format("nemotron", tagged(("<TOOLCALL>",), ("</TOOLCALL>",)), (("<TOOLCALL>",),), _THINK),
    Format("command_r", tagged(("<|START_ACTION|>",), ("<|END_ACTION|>",)), (("<|START_ACTION|>",),)),
    Format("hermes", tagged(("<tool_call>",), ("</tool_call>",)), (("<tool_call>",),), _THINK, glue=SPACES),
    Format("functionary", named.functionary, ((">>>all", "<|start_header_id|>"),)),
    Format("functions", named.functions, (("<function=", "</function>"),)),
    Format(
        "llama4",
        llama.pythonic,
        (("<|python_start|>",), ("<|header_start|>", "[func_name1(")),
        _THINK,
        more=("<|python_end|>",),
    ),
    Format("llama3", llama.llama_json, (("<|python_tag|>",), ("<|start_header_id|>", '"parameters"'))),
    PLAIN,
)

FORMATS: Final[Mapping[str, Format]] = {each.name: each for each in _ALL}
"""All formats, by name; where the signs of several are in a template it is the first."""


def format_of(template: str) -> Format:
    """The format that a chat template shows; that of text without calls where it shows none."""
    for each in FORMATS.values():
        if any(all(sign in template for sign in signs) for signs in each.signs):
            return each
    return PLAIN
