"""Schemas of every keyword, many of each: what the grammars and the checks behind them make of five hundred."""

import json
import random
from typing import Any

import pytest
from llguidance import LLTokenizer
from schema_suite import VALUES, Schema, suite
from schema_walks import Compiled, allows, compiled, fake_tokenizer, is_valid, walk

UNENDING = "pattern"  # whose outputs, drawn at random, seldom reach what the expression wants at their end
TOLD = "format"  # of which validators judge nothing unless they are asked to: the grammars are stricter
SUITE = suite()


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    """The tokens of the fake model."""
    return fake_tokenizer()


def spellings(value: Any) -> set[str]:
    """How a number may be written, as a grammar has one way: 2 and not 2.0, 1.50 and not 1.5 for hundredths."""
    written = {json.dumps(value, ensure_ascii=False)}
    if isinstance(value, float):
        written |= {f"{value:.2f}", *([str(int(value))] if value.is_integer() else [])}
    return written


def takes(made: Compiled, value: Any) -> bool:
    return any(
        allows(made, text) and (made.check is None or made.check.fault(text) is None) for text in spellings(value)
    )


def wrong(tokenizer: LLTokenizer, keyword: str, schema: Schema, seed: int) -> list[str]:
    """What is wrong with what became of a schema."""
    valid = [value for value in VALUES if is_valid(schema, json.dumps(value))]
    if not valid:
        return []
    made = compiled(tokenizer, schema)
    told = [f"{value!r} is taken" for value in VALUES if value not in valid and takes(made, value)]
    if keyword != TOLD:
        told += [f"{value!r} is not taken" for value in valid if not takes(made, value)]
    if keyword not in {UNENDING, TOLD}:
        text = walk(made, random.Random(seed))
        fault = made.check.fault(text) if made.check else None
        huge = "e+308" in f"{json.loads(text)}" or "inf" in f"{json.loads(text)}"  # which validators confuse
        if not huge and (fault is None) != is_valid(schema, text):
            told.append(f"{text} is {'valid' if fault else 'not valid'}, and found {fault}")
    return told


def test_five_hundred_schemas(tokenizer: LLTokenizer) -> None:
    """None is refused that something is valid for; what is valid is taken and nothing else; each output validates."""
    assert len(SUITE) >= 500
    found = [
        (keyword, schema, told)
        for seed, (keyword, schema) in enumerate(SUITE)
        if (told := wrong(tokenizer, keyword, schema, seed))
    ]
    assert found == []


def test_what_nothing_is_valid_for_is_refused(tokenizer: LLTokenizer) -> None:
    """A schema that contradicts itself is refused, and the refusal says so."""
    for schema in ({"allOf": [{"type": "integer"}, {"type": "null"}]}, {"anyOf": [False]}, {"minimum": 2, "const": 1}):
        with pytest.raises(AssertionError, match="Unsatisfiable"):
            compiled(tokenizer, schema)


@pytest.mark.parametrize("name", ["$defs", "definitions"])
def test_a_reference_to_false_is_false(tokenizer: LLTokenizer, name: str) -> None:
    """A part that may never be, told by a reference, does not have the whole schema refused."""
    never = {"$ref": f"#/{name}/never"}
    made = compiled(tokenizer, {"properties": {"a": never}, "items": never, name: {"never": False}})
    assert [value for value in ({}, [], {"b": 1}, 3) if not takes(made, value)] == []
    assert [value for value in ({"a": 1}, [1]) if takes(made, value)] == []
