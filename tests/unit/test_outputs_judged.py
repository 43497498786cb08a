"""What a grammar does not follow is found when an output is complete."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from grammar_answers import Answers, greedy, schema
from schema_walks import LIMITS, allows, compiled, fake_tokenizer

from inferd.core.task import FinishReason
from inferd.engine.cells import compiling
from inferd.engine.cells.verdicts import SchemaCheck
from inferd.engine.token.submission import Continuation, SampleSoFar
from inferd.errors import OutputInvalidError
from inferd.testing.fake_session import END

UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
ENDED = FinishReason.END_OF_TEXT


def test_a_complete_output_that_is_not_valid_fails_its_task_only(tmp_path: Path) -> None:
    """It fails with where and against what, also with its last token; nothing of what it says is in the error."""
    nested = schema({"type": "object", "properties": {"a/b": UNIQUE}, "required": ["a/b"]})
    answers = Answers(tmp_path).run(
        ("[1, 2]", greedy(schema(UNIQUE))),
        ("[71, 71]", greedy(schema(UNIQUE))),
        ('{"a/b": [71, 71]}', greedy(nested, max_tokens=len('{"a/b": [71, 71]}'))),
        ("12", greedy(schema({"not": {"type": "integer"}}))),  # complete with the token that ends it
        ("1.5", greedy(schema({"not": {"type": "integer"}}))),
        ("[71, 71, 3]", greedy(schema(UNIQUE), max_tokens=8)),  # not complete
        ("[71, 71]", greedy()),
        ("[71, 71]", greedy(schema(UNIQUE), n=3)),
    )
    assert answers[0] == ("[1, 2]", ENDED)
    assert answers[4] == ("1.5", ENDED)
    assert answers[5][1] is FinishReason.MAX_TOKENS
    assert answers[6] == ("[71, 71]", ENDED)
    assert isinstance(answers[7][1], OutputInvalidError)
    facts = {1: ("", "uniqueItems"), 2: ("/a~1b", "uniqueItems"), 3: ("", "not")}
    for number, wanted in facts.items():
        error = answers[number][1]
        assert isinstance(error, OutputInvalidError), answers[number]
        assert (error.metadata["path"], error.metadata["keyword"]) == wanted
        assert wanted[1] in error.metadata["unfollowed"]
        assert "71" not in f"{error.message}{error.metadata}"
    assert answers[1][0] == "[71, 71]"  # what it told stays


def test_an_output_whose_worker_died_at_its_end_is_judged_again(tmp_path: Path) -> None:
    """The last token was told, and not yet whether the output is valid: that is found out where the task goes on."""
    so_far = Continuation(samples={0: SampleSoFar([*b"12", END])}, prompt_told=True)
    some = {"not": {"type": "integer"}}, {"not": {"type": "string"}}, {"type": "integer"}
    answers = Answers(tmp_path).run(*(("12", greedy(schema(each))) for each in some), continuation=so_far)
    assert [text for text, _ in answers] == ["", "", ""]
    assert isinstance(answers[0][1], OutputInvalidError)
    assert [end for _, end in answers[1:]] == [ENDED, ENDED]


@pytest.mark.parametrize(
    ("source", "yes", "no"),
    [
        (r"a\b.c", ["a-c", "a c"], ["abc"]),
        (r"\Ba|b", ["b"], ["a"]),
        (r"(?m)x$\n^y", ["x\ny"], ["x", "xy"]),
        (r"^a$|^b$", ["a", "b"], ["ab", ""]),
        (r"a^b|c", ["c"], ["ab"]),
        (r"\Qa.b\E+", ["a.b", "a.bb"], ["axb"]),
        (r"\Q[\E\Q(", ["[("], ["[", "("]),
        (r"\p{^Cyrillic}\PL", ["a1"], ["ж1", "ab"]),
        (r"\101\x42", ["AB"], ["A"]),
        (r"[\012\p{^Cyrillic}]\b", ["a"], ["\n", "ж"]),
        (r"a{,3}{2}", ["a{,3}}"], ["a", "aa"]),
        (r"{|a{x", ["{", "a{x"], ["a"]),
        (r"[\]^$b]\$", ["]$", "^$", "b$"], ["a$"]),
        (r"[[:alpha:]$]+\b", ["ab", "a$b"], ["a1", "a$"]),
    ],
)
def test_regular_expressions_of_re2(source: str, yes: list[str], no: list[str]) -> None:
    """What RE2 has is taken: written in other words, or looked at when the output is complete."""
    made = compiled(fake_tokenizer(), source, "REGEX")

    def found(text: str) -> bool:
        return allows(made, text) and (made.check is None or made.check.fault(text) is None)

    assert [text for text in yes if not found(text)] == []
    assert [text for text in no if found(text)] == []


HOSTILE: dict[str, tuple[Any, str]] = {
    "steps back without end": ({"pattern": r"^(?=a)(a|a)*\1?$"}, json.dumps("a" * 60 + "b")),
    "an expression of many steps": ({"not": {"pattern": "^(a+)+$"}}, json.dumps("a" * 60)),
    "nested without end": ({"not": {"type": "null"}}, "[" * 5000 + "]" * 5000),
    "a reference to itself": ({"$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "1"),
    "all others unlike": ({"type": "array", "uniqueItems": True, "not": {}}, json.dumps(list(range(4000)))),
    "an enum of many": ({"not": {"enum": list(range(9000))}}, "8999"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_judged_in_time(name: str) -> None:
    """Whatever a schema and an output are, it is soon known that the output is not valid, or taken for such."""
    hostile, text = HOSTILE[name]
    began = time.monotonic()
    SchemaCheck(hostile).fault(text)
    assert time.monotonic() - began < 60  # a hang takes hours; a cell has `workers.grammar_step_s`


@pytest.mark.parametrize(
    "wrong",
    [
        {"$ref": "file:///etc/hostname"},
        {"$ref": "http://127.0.0.1:9/x"},
        {"not": {"$ref": "#/$defs/none"}},
        {"not": 3},
        {"not": {"pattern": "((a{1000}){1000}){100}"}},
    ],
)
def test_a_schema_that_is_none_is_refused_and_nothing_is_fetched(wrong: Any) -> None:
    """Files and addresses that a schema names are not opened; the error says what is wrong."""
    message = {"kind": "JSON_SCHEMA", "source": json.dumps(wrong), "limits": LIMITS}
    made = compiling.compile_grammar(fake_tokenizer(), message)
    assert made.matcher is None
    assert made.error


def test_a_schema_that_is_nested_deep_is_taken() -> None:
    """As deep as the validator takes one, whatever of it can be followed."""
    deep: dict[str, Any] = {"uniqueItems": True}
    for _ in range(240):
        deep = {"items": deep, "uniqueItems": True}
    made = compiled(fake_tokenizer(), deep)
    assert allows(made, "[[[1]]]")
    assert made.check is not None
    assert made.check.fault("[[[1, 1]]]") is not None


def test_a_grammar_that_cannot_be_written_for_the_engine_allows_what_the_schema_does() -> None:
    """Where no part of a schema can be followed, any JSON is allowed, and judged."""
    hidden = {"properties": {"a": {"const": 3}}, "required": ["a", "b"]}
    a, b = {"$ref": "#/not/properties/a"}, {"pattern": "(?=x)x"}
    crossed = {"not": hidden, "properties": {"a": a, "b": b}}
    made = compiled(fake_tokenizer(), crossed)
    assert allows(made, '{"a": 3}')
    assert allows(made, "[null]")
    assert made.check is not None
    assert made.check.fault('{"a": 3}') is None
    assert made.check.fault('{"a": 4}') == {"path": "/a", "keyword": "const", "schema_path": "/not/properties/a/const"}
