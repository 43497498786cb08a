"""Walks through grammars: outputs that are drawn at random from what the constraint engine allows."""

import json
import random
from typing import Any

import jsonschema
from llguidance import LLTokenizer

from inferd.engine.cells.compiling import Compiled, compile_grammar
from inferd.engine.cells.words import make_tokenizer
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.grammar import (
    GRAMMAR_SYMBOLS,
    LEXER_FUEL,
    LEXER_STATES,
    ROW_ITEMS,
    STEP_ITEMS,
    STEP_LEXER_FUEL,
)
from inferd.testing.fake import VOCABULARY
from inferd.testing.fake_session import END

SIZE = 260
LIMITS = {
    "initial_lexer_fuel": LEXER_FUEL,
    "step_lexer_fuel": STEP_LEXER_FUEL,
    "step_max_items": STEP_ITEMS,
    "max_items_in_row": ROW_ITEMS,
    "max_lexer_states": LEXER_STATES,
    "max_grammar_size": GRAMMAR_SYMBOLS,
}
SOON = 60  # tokens, from which on an output is ended where that can be
MOST = 3000


def fake_tokenizer() -> LLTokenizer:
    """The tokens of the fake model: one for each byte."""
    return make_tokenizer(Tokenizer(VOCABULARY, size=SIZE), sorted(VOCABULARY.eos_ids))


def compiled(tokenizer: LLTokenizer, schema: Any, kind: str = "JSON_SCHEMA") -> Compiled:
    """What became of a schema, which must not be refused."""
    source = json.dumps(schema) if kind == "JSON_SCHEMA" else schema
    made = compile_grammar(tokenizer, {"kind": kind, "source": source, "limits": LIMITS})
    assert made.matcher is not None, (schema, made.error)
    return made


def allows(made: Compiled, text: str) -> bool:
    """Whether an output may be exactly this text, by the grammar alone."""
    assert made.matcher is not None
    matcher = made.matcher.deep_copy()
    tokens = [*text.encode()]
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def walk(made: Compiled, draw: random.Random) -> str:
    """A complete output, drawn from the masks."""
    assert made.matcher is not None
    matcher, text = made.matcher.deep_copy(), b""
    while not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        options = [token for token in range(SIZE) if mask[token // 8] >> token % 8 & 1]
        assert options, (text, matcher.get_error())
        soon = [token for token in options if token == END or token in b'"}]'] if len(text) > SOON else []
        token = draw.choice(soon or options)
        if END in options and draw.random() < 0.5:
            token = END
        matcher.consume_token(token)
        if token != END:
            text += bytes([token])
        assert len(text) < MOST, text
    return text.decode()


def is_valid(schema: Any, text: str) -> bool:
    """What an independent validator says of an output."""
    return bool(
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).is_valid(json.loads(text))
    )
