"""What the parsers of tool calls make of answers that are broken, cut off, long, or no calls at all."""
# ruff: noqa: RUF001 - markers as models write them

from __future__ import annotations

import json

import pytest
from tool_texts import TOOLS

from inferd.http.tools.deltas import Arguments, CallBegun, CallEnded, Content, Delta, Reasoning, Stray, joined
from inferd.http.tools.formats.table import FORMATS, format_of
from inferd.http.tools.json_text import DEEPEST
from inferd.http.tools.parser import parser_for

CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def parsed(form: str, text: str, *, cut: bool = False, held: int = 4096, prompt_end: str = "") -> list[Delta]:
    """What comes of a whole text."""
    parser = parser_for(form, TOOLS, held_chars=held, make_id=lambda: "id", prompt_end=prompt_end)
    return joined([*parser.feed(text), *parser.finish(cut=cut)])


def call(name: str, arguments: str, *, index: int = 0, call_id: str = "id") -> list[Delta]:
    """What comes of a whole call."""
    return [CallBegun(index, call_id, name), Arguments(index, arguments), CallEnded(index, complete=True)]


BROKEN = [
    ("hermes", "<tool_call>no JSON</tool_call>"),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": }}\n</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("qwen3_coder", "<tool_call>\n<function=now>\nwhat?\n</function>\n</tool_call>"),
    ("glm", "<tool_call>now\n<arg_key>a</arg_key>no value</tool_call>"),
    ("mistral", "[TOOL_CALLS]now[ARGS]none"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁calls▁end｜>"),
    ("kimi_k2", "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>none<|tool_call_end|>"),
    ("llama3", 'A map: {"name": "Bern", "parameters": {"a": 1}}'),
    ("llama3", '{"city": "Bern", "days": [1, 2]}'),
    ("llama4", "[1, 2, 3] and [now] and [other()]"),
    ("gemma4", "<|tool_call>call:now{a:1<tool_call|>"),
    ("none", CALL),
]


@pytest.mark.parametrize(("form", "text"), BROKEN)
def test_what_is_no_call_is_content(form: str, text: str) -> None:
    """What looks like a call and is none comes out as the content that it is, to the last character."""
    assert parsed(form, text) == [Content(text)]


def test_calls_beside_a_broken_one_are_calls() -> None:
    """A call behind a broken one is a call, and so is the one before."""
    broken = "<tool_call>no JSON</tool_call>"
    found = parsed("hermes", f"{CALL}\n{broken}\n{CALL}")
    assert found == [*call("now", "{}"), Content("\n" + broken), *call("now", "{}", index=1)]


def test_the_begin_of_a_call_in_a_text_that_was_cut_off_is_no_content() -> None:
    """Where an answer is cut off in a call, what there is of it is told apart from content; its other calls stay."""
    begin = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Be'
    assert parsed("hermes", f"{CALL}\n{begin}", cut=True) == [*call("now", "{}"), Stray(begin)]
    assert parsed("hermes", f"Well.\n{begin}") == [Content(f"Well.\n{begin}")]
    assert parsed("hermes", "Well.\n<tool_c", cut=True) == [Content("Well.\n<tool_c")]


def test_a_long_call_goes_out_before_it_is_whole() -> None:
    """Arguments longer than what is held back go out as they come, as begins of JSON; their end tells if all came."""
    parser = parser_for("hermes", TOOLS, held_chars=20, make_id=lambda: "id")
    assert parser.feed('<tool_call>{"name": "get_weather", "arguments": {"city": "0123456') == []
    assert parser.feed("7890") == [CallBegun(0, "id", "get_weather"), Arguments(0, '{"city": "01234567890')]
    assert parser.feed("x\\u00") == [Arguments(0, "x")]
    assert parser.feed('e9"}}</tool_call>') == [Arguments(0, '\\u00e9"}'), CallEnded(0, complete=True)]
    assert parser.finish() == []
    parser = parser_for("hermes", TOOLS, held_chars=0, make_id=lambda: "id")
    parser.feed('<tool_call>{"name": "get_weather", "arguments": {"city": "Bern"')
    assert parser.feed(" oh}") == [Arguments(0, " "), CallEnded(0, complete=False), Content("oh}")]


def test_partial_markers_are_held_back_no_longer_than_needed() -> None:
    """Text goes out at once up to what may be a marker, and that as soon as it is none."""
    parser = parser_for("hermes", TOOLS)
    assert parser.feed("a <b> c<tool") == [Content("a <b> c")]
    assert parser.feed("box>") == [Content("<toolbox>")]


def test_control_characters_in_strings_are_escaped() -> None:
    """A line feed that a model writes into a string of JSON makes no broken JSON."""
    found = parsed("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>')
    assert found == call("get_weather", '{"city": "a\\nb"}')


def test_arguments_that_are_written_as_a_string_are_an_object() -> None:
    """Arguments before the name, as JSON in a string, and no arguments at all are arguments."""
    text = '<tool_call>{"arguments": "{\\"city\\": \\"Bern\\"}", "name": "get_weather"}</tool_call>'
    assert parsed("hermes", text) == call("get_weather", '{"city": "Bern"}')
    assert parsed("hermes", '<tool_call>{"name": "now"}</tool_call>') == call("now", "{}")
    nested = '<tool_call>{"type": "function", "function": {"name": "now", "arguments": null}}</tool_call>'
    assert parsed("hermes", nested) == call("now", "{}")


def test_values_have_the_types_of_the_schema() -> None:
    """A text is the type that the tool's schema says, a string where it says so, and else what it looks like."""
    values = {"city": "3", "days": "3", "exact": "True", "places": "['a', None]", "other": "0042"}
    members = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    found = parsed("qwen3_coder", f"<tool_call>\n<function=get_weather>\n{members}</function>\n</tool_call>")
    said = json.loads("".join(delta.text for delta in found if isinstance(delta, Arguments)))
    assert said == {"city": "3", "days": 3, "exact": True, "places": ["a", None], "other": "0042"}


def test_what_is_too_deep_or_too_much_is_content() -> None:
    """Arguments nested deeper than allowed, a name longer than allowed and too many calls are content."""
    deep = "[" * DEEPEST + "]" * DEEPEST
    for text in (
        f'<tool_call>{{"name": "now", "arguments": {{"a": {deep}}}}}</tool_call>',
        f'<tool_call>{{"name": "{"n" * 300}", "arguments": {{}}}}</tool_call>',
    ):
        assert parsed("hermes", text) == [Content(text)]
    many = parsed("hermes", CALL * 1030)
    assert [delta.index for delta in many if isinstance(delta, CallBegun)] == list(range(1024))
    assert many[-1] == Content(CALL * 6)


def test_thoughts_are_told_apart() -> None:
    """What a model thinks is reasoning, whether it or the prompt begins it, or a call ends it, or nothing does."""
    assert parsed("hermes", "<think>\nHm.\n</think>\n\nYes.") == [Reasoning("Hm."), Content("Yes.")]
    assert parsed("hermes", "Hm.\n</think>\n\nYes.", prompt_end="<think>\n") == [Reasoning("Hm."), Content("Yes.")]
    assert parsed("hermes", "Hm.", prompt_end="assistant\n<think>\n") == [Reasoning("Hm.")]
    assert parsed("hermes", "What is <think>?") == [Content("What is <think>?")]
    said = parsed("qwen3_coder", "Hm.\n<tool_call>\n<function=now>\n</function>\n</tool_call>", prompt_end="<think>\n")
    assert said == [Reasoning("Hm."), *call("now", "{}")]


HARMONY = (
    "<|channel|>analysis<|message|>I say <|end|> here.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait."
    "<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    "<|start|>assistant<|channel|>commentary to=python code<|message|>1<|call|>"
    "<|start|>assistant<|channel|>final<|message|>Done."
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_channels_of_harmony(size: int) -> None:
    """Analysis is reasoning, the final answer content; messages to functions are calls, and to others stray."""
    parser = parser_for("harmony", TOOLS, make_id=lambda: "id")
    found = [delta for at in range(0, len(HARMONY), size) for delta in parser.feed(HARMONY[at : at + size])]
    found += parser.finish()
    assert "".join(d.text for d in found if isinstance(d, Reasoning)) == "I say <|end|> here."
    assert "".join(d.text for d in found if isinstance(d, Content)) == "Wait.Done."
    assert "".join(d.text for d in found if isinstance(d, Stray)) == "1"
    assert [d for d in found if isinstance(d, CallBegun | Arguments | CallEnded)] == call("now", "{}")


def test_ids_of_the_model_are_kept() -> None:
    """A format with ids of its own has those: its template wants them back."""
    kimi = "<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert parsed("kimi_k2", kimi) == call("now", "{}", call_id="functions.now:3")
    assert parsed("mistral", "[TOOL_CALLS]now[CALL_ID]abcDEF123[ARGS]{}") == call("now", "{}", call_id="abcDEF123")


TEMPLATES = {
    "hermes": '{%- for tool_call in message.tool_calls %}<tool_call>\n{"name": "',
    "qwen3_coder": "<tool_call>\n<function=' + name + '>\n<parameter=",
    "glm": "<tool_call>{{ tc.name }}<arg_key>{{ k }}</arg_key>",
    "mistral": "{{ '[TOOL_CALLS]' + name + '[ARGS]' }}",
    "harmony": "<|start|>assistant<|channel|>analysis<|message|>",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + type + '```json",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "mistral_v3": "{{ '[TOOL_CALLS][' }}",
    "glm47": "<tool_call>{{ tc.name }}<arg_key>{{ k }}</arg_key><arg_value>{{ v }}",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>",
    "gemma4": "<|tool_call>call:",
    "llama3": '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": ... "parameters": ',
    "none": "<|im_start|>{{ message.role }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_shows_in_the_template(name: str) -> None:
    """The format of a model is found by the markers in its chat template."""
    assert format_of(TEMPLATES[name]) is FORMATS[name]
