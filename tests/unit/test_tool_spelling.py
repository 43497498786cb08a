"""Markers that are control tokens, put back into the text of an output; ids of calls as templates take them."""

from __future__ import annotations

import re

import pytest

from inferd.http.tools.formats.table import FORMATS
from inferd.http.tools.history import with_fitting_ids
from inferd.http.tools.markers import silent_markers
from inferd.http.tools.spelling import Spelling

PIECES = {1: b"a", 2: "ü".encode()[:1], 3: "ü".encode()[1:], 4: b"bc"}
NAMES = {8: "[TOOL_CALLS]", 9: "[ARGS]"}


@pytest.mark.parametrize(
    "outputs",
    [
        [("a", [1]), ("", [8]), ("", [2]), ("ü", [3]), ("", [9]), ("bc", [4])],
        [("aübc", [1, 8, 2, 3, 9, 4])],
        [("", [1, 8, 2]), ("a", [3]), ("ü", [9]), ("bc", [4])],
        [("", [1, 8, 2, 3, 9, 4]), ("aü", []), ("bc", [])],
    ],
)
def test_names_stand_where_their_tokens_do(outputs: list[tuple[str, list[int]]]) -> None:
    """Whatever text comes with which tokens, early or late, each name stands where its token does."""
    spelling = Spelling(NAMES, PIECES.__getitem__)
    assert "".join(spelling.add(*output) for output in outputs) == "a[TOOL_CALLS]ü[ARGS]bc"


def test_names_behind_what_was_cut_are_not_told() -> None:
    """Where a stop string cuts the text, the names behind that are cut, too."""
    assert Spelling(NAMES, PIECES.__getitem__).add("a", [1, 8, 4, 9]) == "a[TOOL_CALLS]"


def test_only_markers_of_the_format_are_told() -> None:
    """Of the control tokens of a model those are told that its format is made of."""
    tokens = {1: "<s>", 2: "[TOOL_CALLS]", 3: "[ARGS]", 4: "[INST]", 5: "[THINK]", 6: "[CALL_ID]"}
    assert silent_markers(FORMATS["mistral"], tokens) == {n: tokens[n] for n in (2, 3, 5, 6)}
    gemma = {1: "<bos>", 2: "<|tool_call>", 3: '<|"|>', 4: "<channel|>", 5: "<|channel>", 6: "<turn|>"}
    assert silent_markers(FORMATS["gemma4"], gemma) == {n: gemma[n] for n in (2, 3, 4, 5)}
    harmony = {1: "<|start|>", 2: "<|end|>", 3: "<|call|>", 4: "<|endoftext|>", 5: "<|message|>", 6: "<|channel|>"}
    assert silent_markers(FORMATS["harmony"], harmony) == {n: harmony[n] for n in (1, 2, 3, 5, 6)}


CALLS = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "function": {"name": "now", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "7"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcDEF123", "function": {"name": "f", "arguments": "{}"}}],
    },
]


@pytest.mark.parametrize(
    ("form", "first", "last"),
    [
        ("mistral", r"[0-9a-f]{9}", "abcDEF123"),
        ("kimi_k2", r"functions\.now:0", "functions.f:1"),
        ("hermes", "call_1", "abcDEF123"),
    ],
)
def test_ids_fit_the_template(form: str, first: str, last: str) -> None:
    """Ids from elsewhere become ones that the template takes, alike in a call and its answer; others stay."""
    call, answer, more = with_fitting_ids(CALLS, form)
    assert re.fullmatch(first, call["tool_calls"][0]["id"])
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"]
    assert more["tool_calls"][0]["id"] == last
