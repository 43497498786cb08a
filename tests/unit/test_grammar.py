import json
import queue
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Never

import jsonschema
import numpy as np
import pytest
from grammar_answers import DEADLINE_S, Answers, greedy, schema

from inferd.core.task import FinishReason
from inferd.engine.cells.cell import Cells
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token import grammar as grammar_module
from inferd.engine.token.grammar import Following, Grammars
from inferd.engine.token.limits import CELL_MEMORY_BYTES, GrammarLimits
from inferd.engine.token.room import Constraint, Room
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError, UnsupportedInputError
from inferd.plugin import Vocabulary
from inferd.plugin.vocabulary import TokenKind
from inferd.sampling import Grammar, GrammarKind
from inferd.testing.fake import VOCABULARY
from inferd.testing.fake_session import END

SIZE = 260
ALL = 0xFFFFFFFF
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", 'q"']}, "maxItems": 2},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/link"}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"link": {"type": "string", "format": "date"}},
}


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source)


def lark(source: str) -> Grammar:
    return Grammar(GrammarKind.LARK, source)


def choice(*texts: str) -> Grammar:
    return Grammar(GrammarKind.CHOICE, texts=texts)


PATIENT = GrammarLimits(compile_s=DEADLINE_S, step_s=DEADLINE_S, wait_s=DEADLINE_S)
"""Nothing is late because the machine is busy."""


def unexpected(_: Room) -> Never:
    raise AssertionError("a room is late")


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    """The cells of the fake vocabulary, for all tests."""
    made = Cells(VOCABULARY, size=SIZE, memory_bytes=CELL_MEMORY_BYTES)
    yield made
    made.close()


class Follower:
    """Opens grammars, and follows one output at a time."""

    def __init__(self, cells: Cells, *, ends: Collection[int] = VOCABULARY.eos_ids, size: int = SIZE) -> None:
        self.grammars = Grammars(cells, ends=ends, vocabulary_size=size, limits=PATIENT)
        self.following = Following(rows=4, vocabulary_size=size, wait_s=DEADLINE_S)
        self.following.hear_out = unexpected

    def open(self, grammar: Grammar, *, ignore_ends: bool = False) -> Constraint:
        found: queue.SimpleQueue[list[Constraint] | InferdError] = queue.SimpleQueue()
        self.grammars.open(grammar, found.put, count=1, ignore_ends=ignore_ends)
        constraints = found.get(timeout=2 * DEADLINE_S)
        if isinstance(constraints, InferdError):
            raise constraints
        return constraints[0]

    def allowed(self, constraint: Constraint) -> set[int]:
        self.following.begin([(0, constraint)], rows=1)
        masks = self.following.finish()
        assert masks is not None
        return set(np.flatnonzero(np.unpackbits(masks[0].view(np.uint8), bitorder="little")).tolist())

    def accept(self, constraint: Constraint, token_id: int) -> bool:
        """Take the next token; whether the output is complete."""
        self.following.advance([constraint], [token_id])
        assert not constraint.pending
        return constraint.complete

    def says(self, grammar: Grammar, text: str) -> bool:
        """Whether the output may be exactly this text, by the masks and by `accept`."""
        constraint = self.open(grammar)
        for at, byte in enumerate(text.encode()):
            if byte not in self.allowed(constraint):
                return False
            if self.accept(constraint, byte):
                return at + 1 == len(text.encode())
        return END in self.allowed(constraint)


@pytest.fixture
def follower(cells: Cells) -> Iterator[Follower]:
    """A follower of grammars over the fake vocabulary."""
    made = Follower(cells)
    yield made
    made.grammars.shut()


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        (regex("[a-c]{2,3}"), ["ab", "abc"], ["a", "abcd", "ad"]),
        (regex("gr(ü|ue)n|\N{CAT FACE}"), ["grün", "gruen", "\N{CAT FACE}"], ["grun", ""]),
        (choice("yes", "no", 'a "b"\\\n', "nope"), ["yes", "no", "nope", 'a "b"\\\n'], ["", "y", "nop", "yesno"]),
        (
            lark('start: sum\nsum: sum "+" NUMBER | NUMBER\nNUMBER: /[0-9]{1,3}/'),
            ["1", "12+345", "1+2+3"],
            ["+1", "1+", "1234"],
        ),
        (schema({"type": "integer", "minimum": 5, "maximum": 12}), ["5", "12"], ["4", "13", "05", "5.5"]),
        (schema({"const": {"k": [1, None]}}), ['{"k": [1, null]}', '{"k":[1,null]}'], ['{"k":  [1,null]}', "{}"]),
        (schema(PERSON), ['{"name": "x", "age": 3}'], ['{"age": 3}', '{"name": "123456789", "age": 3}']),
        (schema({}), ["3", "null", '{"a": [true]}'], ["", "nul", "[,]"]),
    ],
)
def test_language(follower: Follower, grammar: Grammar, yes: list[str], no: list[str]) -> None:
    """An output can be each text of the language, and no other."""
    assert [text for text in yes if not follower.says(grammar, text)] == []
    assert [text for text in no if follower.says(grammar, text)] == []


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_masks_allow_is_valid(follower: Follower, seed: int) -> None:
    """Tokens drawn at random from the masks make a JSON text that is valid against the schema."""
    draw = random.Random(seed)
    constraint, text = follower.open(schema(PERSON)), b""
    while (options := sorted(follower.allowed(constraint))) and (token := draw.choice(options)) != END:
        text += bytes([token])
        if follower.accept(constraint, token):
            break
    jsonschema.validate(json.loads(text), PERSON)


def test_the_end_is_allowed_where_the_output_is_complete_only(follower: Follower) -> None:
    """End-of-text is barred inside, allowed where more may follow, and it is told when nothing can follow."""
    constraint = follower.open(regex("ab?"))
    assert follower.allowed(constraint) == {ord("a")}
    assert not follower.accept(constraint, ord("a"))
    assert follower.allowed(constraint) == {ord("b"), END}
    assert follower.accept(constraint, ord("b"))


def test_ends_are_ignored_while_the_output_can_go_on(follower: Follower) -> None:
    """With `ignore_ends`, end-of-text is allowed only where nothing else is."""
    constraint = follower.open(regex("a*"), ignore_ends=True)
    follower.accept(constraint, ord("a"))
    assert follower.allowed(constraint) == {ord("a")}
    assert follower.allowed(follower.open(regex(""), ignore_ends=True)) == {END}


def test_a_control_token_can_be_named(follower: Follower) -> None:
    """A Lark grammar names control tokens by their text; they are allowed nowhere else."""
    constraint = follower.open(lark('start: <|user|> "x"'))
    assert follower.allowed(constraint) == {256}
    assert 256 not in follower.allowed(follower.open(regex("(?s:.*)")))


def test_outputs_of_one_grammar_go_their_own_ways(follower: Follower) -> None:
    """A grammar that is compiled once is followed by each output from its beginning."""
    first, second = (follower.open(regex("a(b|c)")) for _ in range(2))
    assert first.room is second.room
    follower.accept(first, ord("a"))
    assert follower.accept(first, ord("b"))
    assert follower.allowed(second) == follower.allowed(follower.open(regex("a(b|c)"))) == {ord("a")}


def test_forced_text_becomes_the_tokens_of_exactly_that_text() -> None:
    """Where a grammar leaves one text only, a tokenizer that puts a space in front of every text does no harm."""
    tokens = ("<unk>", "</s>", "▁", "a", "b", "▁a", "ab", *(f"<0x{byte:02X}>" for byte in range(256)))
    kinds = (TokenKind.UNKNOWN, TokenKind.CONTROL) + (TokenKind.NORMAL,) * 5 + (TokenKind.BYTE,) * 256
    vocabulary = Vocabulary(algorithm="spm", tokens=tokens, kinds=kinds, scores=(0.0,) * len(tokens), eos_ids=(1,))
    cells = Cells(vocabulary, size=len(tokens), memory_bytes=CELL_MEMORY_BYTES)
    follower = Follower(cells, ends=(1,), size=len(tokens))
    constraint = follower.open(regex("ab a"))
    text = ""
    pieces = Tokenizer(vocabulary, size=len(tokens)).pieces
    for _ in range(4):
        (token,) = follower.allowed(constraint)
        piece = pieces[token]
        text += piece if isinstance(piece, str) else piece.decode()
        if follower.accept(constraint, token):
            break
    cells.close()
    assert text == "ab a"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(GrammarKind.JSON_SCHEMA, '{"type": '),
        Grammar(GrammarKind.JSON_SCHEMA, "[1]"),
        schema({"type": "strin"}),
        schema({"type": "string", "minLength": 3, "maxLength": 2}),
        schema({"$ref": "https://example.com/x"}),
        schema({"type": "string", "pattern": "(a"}),
        schema({"$ref": "file:///etc/hostname"}),
        schema({"uniqueItems": 3}),
        regex("(a"),
        regex("a(?=b)"),
        lark("start: nothing"),
        lark(""),
        choice(),
        Grammar(GrammarKind.JSON_SCHEMA, '{"not":' * 500 + "{}" + "}" * 500),
    ],
)
def test_a_bad_grammar_is_refused_with_its_cause(follower: Follower, grammar: Grammar) -> None:
    """A wrong or unsupported grammar is an INVALID_ARGUMENT that names the field and says why."""
    with pytest.raises(InvalidFieldError) as caught:
        follower.open(grammar)
    assert caught.value.field == "spec.sampling.grammar"
    assert caught.value.metadata["cause"] in caught.value.message
    assert len(caught.value.message) < 1100


def test_a_grammar_over_the_limits_is_refused(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling costs a bounded amount of work."""
    monkeypatch.setattr(grammar_module, "LEXER_FUEL", 10)
    with pytest.raises(InvalidFieldError, match="too big"):
        follower.open(regex("(foo|bar){3}"))


def test_a_model_without_an_end_takes_no_grammar(cells: Cells) -> None:
    """A model that has no end-of-text token refuses grammars, not other tasks."""
    with pytest.raises(UnsupportedInputError, match="no end-of-text token"):
        Follower(cells, ends=()).open(regex("a"))


def test_rows_without_a_grammar_are_free(follower: Follower) -> None:
    """The masks of a step bind the rows that have a grammar; without any there are no masks."""
    follower.following.begin([(1, follower.open(regex("a")))], rows=3)
    masks = follower.following.finish()
    assert masks is not None
    assert masks.shape == (3, 9)
    assert (masks[[0, 2]] == ALL).all()
    assert masks[1].tolist() == [0, 0, 0, 1 << 1, 0, 0, 0, 0, 0]
    follower.following.begin([], rows=2)
    assert follower.following.finish() is None


def test_outputs_of_a_loop_follow_their_grammars(tmp_path: Path) -> None:
    """Tasks with and without grammars run in one batch; each ends when its output is complete."""
    answers = Answers(tmp_path).run(
        ("hello", greedy()),
        ("hello", greedy(regex("he[a-z]{2}y"))),
        ("hello", greedy(choice("goodbye", "hell"))),
        ('{"name": "Bo", "age": 7}', greedy(schema(PERSON))),
        ("aaaaaa", greedy(regex("a*"), max_tokens=3)),
        ("hello", greedy(regex("[a-z]*"), ignore_eos=True, max_tokens=9)),
    )
    ended = FinishReason.END_OF_TEXT
    assert answers[0] == ("hello", ended)
    assert answers[1] == ("helly", ended)
    assert answers[2] == ("hell", ended)
    assert answers[3] == ('{"name": "Bo", "age": 7}', ended)
    assert answers[4] == ("aaa", FinishReason.MAX_TOKENS)
    assert answers[5][0].startswith("hello")
    assert (len(answers[5][0]), answers[5][1]) == (9, FinishReason.MAX_TOKENS)


def test_a_bad_grammar_costs_nobody_else_anything(tmp_path: Path) -> None:
    """The task with a bad grammar is refused; the others of its batch end as always."""
    good, bad, free = Answers(tmp_path).run(
        ("ab", greedy(regex("[ab]*"))),
        (
            "ab",
            greedy(regex("(")),
        ),
        ("ab", greedy()),
    )
    assert isinstance(bad[1], InvalidFieldError)
    assert good == free == ("ab", FinishReason.END_OF_TEXT)


def test_a_grammar_that_becomes_too_complex_ends_its_task_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that hits a limit in the middle of the output fails its task, with the cause, and no other."""
    monkeypatch.setattr(grammar_module, "ROW_ITEMS", 3)
    nested = lark('start: e\ne: e "+" e | e "*" e | "(" e ")" | "1"')
    deep, free = Answers(tmp_path).run(("1+1+1", greedy(nested)), ("ab", greedy()))
    assert isinstance(deep[1], LimitExceededError)
    assert "max is 3" in deep[1].metadata["cause"]
    assert free == ("ab", FinishReason.END_OF_TEXT)


def test_a_token_that_the_grammar_needs_and_another_rule_bars(tmp_path: Path) -> None:
    """When nothing is left to choose from, the task fails and says why; it does not hang."""
    stuck, free = Answers(tmp_path).run(("ab", greedy(regex("ab"), bad_words=("a",))), ("ab", greedy()))
    assert isinstance(stuck[1], InferdError)
    assert stuck[1].reason == "BACKEND_FAILED"
    assert "the grammar allows" in stuck[1].message
    assert free == ("ab", FinishReason.END_OF_TEXT)
