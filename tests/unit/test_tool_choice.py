"""Grammars that enforce calls of tools, followed by the library that follows them in a worker."""

from __future__ import annotations

import json
import random
from typing import Any, Final, get_args

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tool_texts import TOOLS

from inferd.http.tools.choice import ChoiceError, enforce
from inferd.http.tools.deltas import Arguments, CallBegun, CallEnded, Content, Stray
from inferd.http.tools.efforts import template_variables
from inferd.http.tools.formats.table import FORMATS
from inferd.http.tools.parser import parser_for
from inferd.http.tools.writings import WRITINGS
from inferd.http_settings import ToolFormat

END: Final = 256
SILENT: Final = (
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|start|>",
)
MOST: Final = 2000  # tokens of an output
STRICT: Final = [
    {
        "type": "function",
        "function": {
            "name": "plan",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {
                    "mood": {"type": "string", "enum": ["calm", "brisk"]},
                    "place": {"$ref": "#/$defs/place"},
                    "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
                    "count": {"type": "integer", "minimum": 0, "maximum": 9},
                },
                "required": ["mood", "place", "flags", "count"],
                "additionalProperties": False,
                "$defs": {
                    "place": {
                        "type": "object",
                        "properties": {"n": {"type": "integer"}},
                        "required": ["n"],
                        "additionalProperties": False,
                    }
                },
            },
        },
    },
    TOOLS[1],
]


class Vocabulary:
    """All bytes, markers as one token each, and markers that give no text."""

    bos_token_id = None
    eos_token_id = END

    def __init__(self) -> None:
        whole = {*('"', "}", '"}', "true", "7", ", ", "</think>", "</seed:think>", "[/THINK]", "<channel|>")}
        whole |= {each.members.text_end for each in WRITINGS.values() if each.members and each.members.text_end}
        ends = {*whole, "]", "<|close|>think<|sep|>"} - {"true", ", ", "7"}
        whole |= {"<|close|>think<|sep|>"}.union(*(each.markers() for each in WRITINGS.values()))
        words = sorted(whole - {*SILENT, '"', "}", "7"})
        self.tokens = [bytes([n]) for n in range(256)] + [b"\xff<|end|>", *(b"\xff" + t.encode() for t in SILENT)]
        self.special_token_ids = list(range(END, len(self.tokens)))
        self.silent = {text: END + 1 + n for n, text in enumerate(SILENT)}
        self.tokens += [word.encode() for word in words]
        self.ends = {n for n, token in enumerate(self.tokens) if token.decode(errors="replace") in ends}
        self.ends |= {END, self.silent["<|end|>"], self.silent['<|"|>']}

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def text(self, ids: list[int]) -> str:
        """What tokens say, with the names of those that give no text."""
        return b"".join(self.tokens[n].removeprefix(b"\xff") if n >= END else self.tokens[n] for n in ids).decode()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary()


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=[END])


def written(lark: str, seed: int, vocabulary: Vocabulary, tokenizer: LLTokenizer) -> str:
    """An output that a grammar allows, chosen by chance, which prefers what ends texts."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()
    chance, ids = random.Random(seed), list[int]()
    while not matcher.is_stopped():
        mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(mask[: len(vocabulary.tokens)]).tolist()
        ends = [n for n in allowed if n in vocabulary.ends]
        letters = [n for n in allowed if n < END] or allowed
        number = chance.choice(ends if ends and (chance.random() < 0.6 or len(ids) > MOST // 10) else letters)
        assert len(ids) < MOST
        matcher.consume_token(number)
        if number == END:
            break
        ids.append(number)
    return vocabulary.text(ids)


def calls_in(form: str, tools: list[dict[str, Any]], text: str) -> tuple[list[str], str]:
    """Names of the calls in a text, which are whole and valid against their schemas; and all else that it says."""
    parser = parser_for(form, tools)
    found = [*parser.feed(text), *parser.finish()]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    names = {delta.index: delta.name for delta in found if isinstance(delta, CallBegun)}
    for index, name in names.items():
        said = "".join(delta.text for delta in found if isinstance(delta, Arguments) and delta.index == index)
        jsonschema.validate(json.loads(said), schemas[name])
    assert [d.index for d in found if isinstance(d, CallEnded) and d.complete] == list(names)
    return list(names.values()), "".join(delta.text for delta in found if isinstance(delta, Content | Stray))


@pytest.mark.parametrize("tools", [TOOLS, STRICT], ids=["free", "strict"])
@pytest.mark.parametrize("form", WRITINGS)
def test_what_is_required_is_a_call(
    form: str, tools: list[dict[str, Any]], vocabulary: Vocabulary, tokenizer: LLTokenizer
) -> None:
    """Where a call is required all that a model can write is calls of which the arguments are valid."""
    enforced = enforce(form, tools, "required", silent=vocabulary.silent)
    text = written(enforced.lark, 7, vocabulary, tokenizer)
    names, rest = calls_in(form, tools, text)
    assert names
    assert not rest.strip()
    assert enforced.tools == tuple(tools)
    assert not enforced.unenforced


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("form", ["hermes", "qwen3_coder", "mistral", "deepseek_v31", "kimi_k2"])
def test_one_call_and_no_more(form: str, vocabulary: Vocabulary, tokenizer: LLTokenizer, *, parallel: bool) -> None:
    """With the name of a tool there is one call of that tool, whatever is said of parallel ones."""
    chosen = {"type": "function", "function": {"name": "plan"}}
    lark = enforce(form, STRICT, chosen, parallel=parallel, prompt_end="</think>\n", silent=vocabulary.silent).lark
    assert calls_in(form, STRICT, written(lark, 3, vocabulary, tokenizer)) == (["plan"], "")


RIGHT: Final = '{"mood": "calm", "place": {"n": 1}, "flags": [], "count": 3}'
FREE: Final = {
    "hermes": '<tool_call>\n{"name": "plan", "arguments": %s}\n</tool_call>',
    "granite": '<|tool_call|>[{"name": "plan", "arguments": %s}]',
    "llama3": '{"name": "plan", "parameters": %s}',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.plan:0<|tool_call_argument_begin|>%s"
    "<|tool_call_end|><|tool_calls_section_end|>",
}


@pytest.mark.parametrize("form", FREE)
def test_calls_are_right_where_they_are_free(form: str, tokenizer: LLTokenizer) -> None:
    """With strict tools a model may write what it likes, and of calls none that is not valid."""
    lark = enforce(form, STRICT, prompt_end="</think>").lark
    whole = f"Well: <b> {{1}}\n{FREE[form]}"
    wrong = whole % RIGHT.replace("calm", "wild")
    for text, allowed in (
        ("No call at all.", 15),
        (whole % RIGHT, len(whole % RIGHT)),
        (wrong, wrong.index("wild")),
    ):
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark))
        assert matcher.validate_tokens(list(text.encode())) == allowed, matcher.get_error()
        if allowed == len(text):
            matcher.consume_tokens(list(text.encode()))
            assert matcher.is_accepting()


def test_nothing_is_enforced_without_need() -> None:
    """Calls that are free have no grammar, and where none is wanted no tool is offered."""
    assert enforce("hermes", TOOLS).lark == ""
    assert enforce("hermes", TOOLS, "none").tools == ()
    assert enforce("hermes", ()).tools == ()


def test_what_cannot_be_had_is_said() -> None:
    """An unknown tool, no tools and an unknown format are errors; what is left to the model is said."""
    for tools, form, choice in (
        (TOOLS, "hermes", "no_tool"),
        ([], "hermes", "required"),
        (TOOLS, "none", "required"),
        (TOOLS, "hermes", {"type": "web_search"}),
    ):
        with pytest.raises(ChoiceError, match="tool_choice"):
            enforce(form, tools, choice)
    assert "parallel_tool_calls" in enforce("llama4", TOOLS, parallel=False).unenforced[0]


def test_every_format_with_calls_can_be_enforced() -> None:
    """There is a writing for each format that is parsed, and each can be named in the configuration."""
    assert set(WRITINGS) == set(FORMATS) - {"none"}
    assert set(get_args(ToolFormat)) == set(FORMATS)


def test_how_much_a_model_thinks_is_said_in_its_own_words() -> None:
    """A template gets the variables that it knows, and of its own words the nearest."""
    switch = "{% if enable_thinking is defined and enable_thinking is false %}"
    degrees = "{% if reasoning_effort == 'high' %}{% elif reasoning_effort == 'low' %}{% endif %}"
    assert template_variables(switch, effort="none") == {"enable_thinking": False}
    assert template_variables(switch, effort="low") == {"enable_thinking": True}
    assert template_variables(degrees, effort="xhigh") == {"reasoning_effort": "high"}
    assert template_variables(degrees, effort="minimal") == {"reasoning_effort": "low"}
    assert template_variables("{{ reasoning_effort }}", effort="medium") == {"reasoning_effort": "medium"}
    assert template_variables("{{ thinking_budget }}", budget_tokens=100) == {"thinking_budget": 100}
    assert template_variables(switch, effort="high", given={"enable_thinking": False}) == {"enable_thinking": False}
    assert template_variables("{{ messages }}", effort="high") == {}
