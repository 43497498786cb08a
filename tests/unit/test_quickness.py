"""What a worker encodes itself, where nothing could end it: only what is known to be quick."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from shared_cells import cells_of, make_cells
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from inferd.engine.text.quickness import LINEAR_BYTES, SLOW_BYTES
from inferd.engine.text.splitting import QWEN2, RULES, SUPERBPE
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.intake import Intake
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.work import ChatInput, Message, TextInput, TokenInput
from inferd.errors import LimitExceededError, ModelLoadError
from inferd.plugin import TokenLimits, Vocabulary
from inferd.sampling import Sampling
from inferd.testing.fake import VOCABULARY

RULE_NAMES = {rule: name for name, rule in RULES.items()}  # one of each
CLASSES = ("a", "A", "Aa", "1", "\u0967", " ", "\u00a0", "\n", " \n", "!", "'", "<", "\u0301", "\u4e2d", "\u02b0", "a1")
GROWTH = 16  # of what takes the square of the length, between the lengths below
LIMITS = TokenLimits(
    vocabulary_size=300, context_tokens=1 << 20, block_tokens=16, blocks=1 << 16, max_sequences=2, max_step_tokens=64
)
EVIL = r"(a+)+b"  # its time doubles with each letter


def seconds_of(tokenizer: Tokenizer, text: str) -> float:
    """What the thread itself takes."""
    begun = time.thread_time()
    tokenizer.encode(text, template=True)
    return time.thread_time() - begun


def growth(tokenizer: Tokenizer, unit: str, end: str, size: int) -> float:
    """How many times as long a text takes that is four times as long; the least of some tries, for the noise."""
    least = float("inf")
    texts = [unit * (length // len(unit.encode())) + end for length in (size // 4, size)]
    for _ in range(4):
        seconds = [
            min(seconds_of(tokenizer, text) for _ in range(tries)) for text, tries in zip(texts, (3, 1), strict=True)
        ]
        least = min(least, seconds[1] / seconds[0])
        if least < GROWTH / 2:
            break
    return least


@pytest.mark.parametrize("rule", [rule for rule in RULE_NAMES if rule.linear], ids=RULE_NAMES.get)
def test_rules_that_are_linear(rule: Any) -> None:
    """A text of one sort of characters that is four times as long takes nowhere near 16 times as long."""
    tokenizer = Tokenizer(replace(VOCABULARY, pre_tokenizer=RULE_NAMES[rule]), size=300)
    assert tokenizer.quick_bytes == LINEAR_BYTES
    slow = {(unit, end): growth(tokenizer, unit, end, LINEAR_BYTES) for unit in CLASSES for end in ("", "a")}
    assert not {text: ratio for text, ratio in slow.items() if ratio >= GROWTH / 2}


@pytest.mark.parametrize("rule", [rule for rule in RULE_NAMES if not rule.linear], ids=RULE_NAMES.get)
def test_rules_that_are_not(rule: Any) -> None:
    """Those that look ahead over all digits are known for it: no more than a short text is encoded here."""
    tokenizer = Tokenizer(replace(VOCABULARY, pre_tokenizer=RULE_NAMES[rule]), size=300)
    assert tokenizer.quick_bytes == SLOW_BYTES
    assert growth(tokenizer, "1", "", 4096) > GROWTH / 3


def definition(change: Callable[[Library], None]) -> Vocabulary:
    """A tokenizer that a file defines."""
    inner = Library(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    change(inner)
    return Vocabulary(algorithm="json", definition=inner.to_str().encode(), eos_ids=(1,), chat_template="{{ 1 }}")


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def table(text: bytes) -> normalizers.Normalizer:
    """A table of SentencePiece with an empty trie, and one text."""
    return normalizers.Precompiled((4).to_bytes(4, "little") + bytes(4) + text + b"\0")


DOUBLING = [normalizers.Replace("a", "aa")] * 24  # of one letter 16 MiB

FILES: dict[str, tuple[Callable[[Library], None], int]] = {
    "nothing": (lambda _: None, LINEAR_BYTES),
    "bytes": (lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel()), LINEAR_BYTES),
    "known": (lambda t: setattr(t, "pre_tokenizer", split(QWEN2.patterns[0])), LINEAR_BYTES),
    "text": (lambda t: setattr(t, "normalizer", normalizers.Replace(" ", "_")), LINEAR_BYTES),
    "quadratic": (lambda t: setattr(t, "pre_tokenizer", split(SUPERBPE.patterns[1])), 0),
    "own": (lambda t: setattr(t, "pre_tokenizer", split(EVIL)), 0),
    "nested": (
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), split(EVIL)])),
        0,
    ),
    "normalizer": (lambda t: setattr(t, "normalizer", normalizers.Replace(Regex(EVIL), "c")), 0),
    "word": (
        lambda t: setattr(t, "model", models.WordPiece({"a": 0, "b": 1}, max_input_chars_per_word=10**6)),
        0,
    ),
    "doubling": (lambda t: setattr(t, "normalizer", normalizers.Sequence(DOUBLING)), 0),
    "doubling later": (
        lambda t: setattr(t, "normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Sequence(DOUBLING)])),
        0,
    ),
    "bytes of bytes": (lambda t: setattr(t, "normalizer", normalizers.Sequence([normalizers.ByteLevel()] * 24)), 0),
    "everywhere": (lambda t: setattr(t, "normalizer", normalizers.Replace("", "b" * 10**7)), 0),
    "prepended": (lambda t: setattr(t, "normalizer", normalizers.Prepend("b" * 10**7)), 0),
    "thrice": (lambda t: setattr(t, "normalizer", normalizers.Replace(" ", "\u2581")), LINEAR_BYTES),
    "some times": (lambda t: setattr(t, "normalizer", normalizers.Replace("a", "b" * 32)), LINEAR_BYTES // 2),
    "table": (lambda t: setattr(t, "normalizer", table(b"b" * 64)), LINEAR_BYTES // 4),
    "large table": (lambda t: setattr(t, "normalizer", table(b"b" * 10**6)), 0),
    "steps": (
        lambda t: setattr(t, "normalizer", normalizers.Sequence([normalizers.Lowercase()] * 10**6)),
        0,
    ),
    "pieces": (lambda t: setattr(t, "model", models.Unigram([("a", 0.0), ("b" * 16, 0.0)], unk_id=0)), LINEAR_BYTES),
    "longer pieces": (
        lambda t: setattr(t, "model", models.Unigram([("a", 0.0), ("b" * 64, 0.0)], unk_id=0)),
        LINEAR_BYTES,
    ),
    "long pieces": (lambda t: setattr(t, "model", models.Unigram([("a", 0.0), ("b" * 65, 0.0)], unk_id=0)), 0),
    "words": (lambda t: setattr(t, "model", models.WordPiece({"a": 0, "b": 1})), LINEAR_BYTES),
}


@pytest.mark.parametrize("name", FILES)
def test_what_files_define(name: str) -> None:
    """Patterns that a file brings are never trusted, unless they are ours."""
    change, quick_bytes = FILES[name]
    assert Tokenizer(definition(change), size=2).quick_bytes == quick_bytes


def intake(vocabulary: Vocabulary, *, timeout_s: float = 60.0) -> Intake:
    limits = EngineLimits(text_timeout_s=timeout_s, template_timeout_s=60)
    return Intake(vocabulary, Bounds.of(LIMITS, limits), cells=cells_of(vocabulary), limits=limits)


def test_a_pattern_that_never_ends_costs_its_task() -> None:
    """A text of 4 KB at which a pattern of a file hangs is ended by its bound, as bad words are; the next is taken."""
    vocabulary = definition(FILES["own"][0])
    taken = intake(vocabulary, timeout_s=0.5)
    hangs = ("a" * 20 + " ") * 200
    with pytest.raises(LimitExceededError, match=r"workers\.text_timeout_s"):
        taken.tokenize(TextInput(hangs))
    with pytest.raises(LimitExceededError, match=r"workers\.text_timeout_s"):
        taken.accept(1, TokenInput([0]), Sampling(bad_words=(hangs,)))
    assert list(taken.tokenize(TextInput("ab"))) == [0, 1]


def test_a_letter_that_becomes_gigabytes_costs_its_task() -> None:
    """What a normalizer doubles again and again is ended by its bound of memory, by name; the next text is taken."""
    doubling = [normalizers.Replace("a", "aa")] * 40
    vocabulary = definition(lambda t: setattr(t, "normalizer", normalizers.Sequence(doubling)))
    cells, limits = make_cells(vocabulary, memory_bytes=64 << 20), EngineLimits(text_timeout_s=60)
    taken = Intake(vocabulary, Bounds.of(LIMITS, limits), cells=cells, limits=limits)
    with pytest.raises(LimitExceededError, match=r"workers\.cell_memory_bytes"):
        taken.tokenize(TextInput("a"))
    assert list(taken.tokenize(TextInput("b"))) == [1]
    cells.close()


def test_digits_cost_their_task() -> None:
    """Digits that a rule of ours would take minutes for are ended by their bound."""
    taken = intake(replace(VOCABULARY, pre_tokenizer="superbpe"), timeout_s=0.5)
    with pytest.raises(LimitExceededError, match=r"workers\.text_timeout_s"):
        taken.tokenize(TextInput("1" * LINEAR_BYTES * 4))


def test_what_is_quick() -> None:
    """What is prepared in turn with other tasks is what is encoded in this process, and not much of it."""
    own, ours = intake(definition(FILES["own"][0])), intake(VOCABULARY)
    chat = ChatInput((Message("user", "a"),))
    assert own.is_quick(TokenInput([0]), Sampling())
    assert not own.is_quick(TextInput("a"), Sampling())
    assert not own.is_quick(TokenInput([0]), Sampling(bad_words=("a",)))
    assert ours.is_quick(TextInput("a" * 100), Sampling(bad_words=("a",)))
    assert not ours.is_quick(TextInput("a" * 5000), Sampling())
    assert not ours.is_quick(TextInput("a"), Sampling(bad_words=("a" * 5000,)))
    assert not ours.is_quick(chat, Sampling())


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([decoders.Replace("a", "aa")] * 40, "40 steps .* 1.09951e.12 times"),
        ([decoders.Replace("", "b" * 10**6)], "1 steps .* 1e.06 times"),
    ],
    ids=["doubling", "everywhere"],
)
def test_a_decoder_that_makes_gigabytes_is_refused(steps: list[decoders.Decoder], told: str) -> None:
    """What a decoder makes of each token is asked at the load: one that makes too much of it is refused before."""
    with pytest.raises(ModelLoadError, match=told):
        Tokenizer(definition(lambda t: setattr(t, "decoder", decoders.Sequence(steps))), size=2)


def test_decoders_that_write_spaces() -> None:
    """Those that put a space or a few letters in the place of a mark are taken as ever."""
    steps = [decoders.Replace("\u2581", " "), decoders.Replace("b", "bbb"), decoders.ByteFallback(), decoders.Fuse()]
    made = Tokenizer(definition(lambda t: setattr(t, "decoder", decoders.Sequence(steps))), size=2)
    assert made.pieces == ["a", "bbb"]
