"""Long texts: refused before they are encoded, encoded where nobody waits for it, and given up when late."""

import queue
import random
import threading
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shared_cells import cells_of, fake_cells

from inferd.engine.text.detokenizer import Detokenizer, decode
from inferd.engine.text.quickness import LINEAR_BYTES
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.intake import Intake
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.reception import AT_ONCE
from inferd.engine.token.sequence import Origin
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput, Message, TextInput
from inferd.errors import ChatTemplateError, InferdError, LimitExceededError, PromptTooLongError
from inferd.plugin import LoadRequest, TokenLimits, Vocabulary
from inferd.plugin.vocabulary import TokenKind
from inferd.sampling import Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.core.task import FinishReason
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
LONG = "aé " * 4 * LINEAR_BYTES
SLOW = (
    "{% if messages[0].content == 'slow' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}<|user|>{{ messages[0].content }}<|end|>"
)


def intake(*, context_tokens: int = 1 << 24, vocabulary: Vocabulary = VOCABULARY, timeout_s: float = 60.0) -> Intake:
    session = TokenLimits(
        vocabulary_size=len(vocabulary.tokens),
        context_tokens=context_tokens,
        block_tokens=16,
        blocks=-(-context_tokens // 16),
        max_sequences=1,
        max_step_tokens=16,
    )
    limits = EngineLimits(text_timeout_s=timeout_s, template_timeout_s=60)
    return Intake(vocabulary, Bounds.of(session, limits), cells=cells_of(vocabulary), limits=limits)


def test_a_prompt_that_cannot_fit_is_refused_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the longest tokens would be too many, nothing is encoded, and the error has both numbers."""
    taken = intake(context_tokens=100)

    def encode(*_: object, **__: object) -> None:
        raise AssertionError("it was encoded")

    monkeypatch.setattr(Tokenizer, "encode", encode)
    for given in (TextInput("x" * (1 << 20)), ChatInput((Message("user", "x" * (1 << 20)),))):
        with pytest.raises(PromptTooLongError, match=r"1048[0-9]{3} bytes, .* context of 100 tokens") as caught:
            taken.accept(Origin(1), given, Sampling())
        facts = caught.value.metadata
        longest = max(map(len, VOCABULARY.tokens))
        assert int(facts["prompt_tokens"]) == -(-int(facts["prompt_bytes"]) // longest)
        assert facts["limit_tokens"] == "100"


def test_what_may_fit_is_encoded() -> None:
    """A text at the bound of its bytes is encoded, and refused by its tokens if at all."""
    with pytest.raises(PromptTooLongError, match="the prompt has 792 tokens"):
        intake(context_tokens=100).accept(Origin(1), TextInput("x" * 99 * 8), Sampling())


def spm(*, fallback: bool) -> Vocabulary:
    tokens = ("<unk>", "</s>", "▁", "aa", "a", *(f"<0x{byte:02X}>" for byte in range(256 if fallback else 9)))
    kinds = (TokenKind.UNKNOWN, TokenKind.CONTROL) + (TokenKind.NORMAL,) * 3 + (TokenKind.BYTE,) * (len(tokens) - 5)
    return Vocabulary(algorithm="spm", tokens=tokens, kinds=kinds, scores=(0.0,) * len(tokens), eos_ids=(1,))


def test_the_longest_token() -> None:
    """The bound of a token's bytes is known where no text can vanish in one; with NFC three bytes may become one."""
    assert Tokenizer(VOCABULARY, size=260).longest_bytes == max(map(len, VOCABULARY.tokens[256:]))
    composing = replace(VOCABULARY, pre_tokenizer="qwen2")
    assert Tokenizer(composing, size=260).longest_bytes == 3 * max(map(len, VOCABULARY.tokens[256:]))
    assert Tokenizer(spm(fallback=True), size=261).longest_bytes == len("<unk>")
    assert Tokenizer(spm(fallback=False), size=14).longest_bytes is None


@pytest.mark.parametrize("seed", range(20))
def test_no_token_is_longer_than_the_longest(seed: int) -> None:
    """Texts of all sorts have at least as many tokens as their bytes and the bound ask for."""
    draw = random.Random(seed)
    letters = "a ▁\u0301\u1100\u1161\u11a8éA\N{CAT FACE}\n<|end|>"
    text = "".join(draw.choice(letters) for _ in range(300))
    for vocabulary in (VOCABULARY, replace(VOCABULARY, pre_tokenizer="qwen2"), spm(fallback=True)):
        tokenizer = Tokenizer(vocabulary, size=300)
        assert tokenizer.longest_bytes is not None
        assert len(tokenizer.encode(text)) * tokenizer.longest_bytes >= len(text.encode())


def test_a_long_text_has_the_same_tokens_elsewhere() -> None:
    """A long text is encoded in another process, to the tokens that it would have in this one."""
    ids = intake().tokenize(TextInput(LONG))
    assert isinstance(ids, array)
    assert ids.tolist() == Tokenizer(VOCABULARY, size=260).encode(LONG)


def test_a_text_that_takes_too_long() -> None:
    """Encoding that is not done in its time is ended, and refused by the name of the bound; the next text is taken."""
    with pytest.raises(LimitExceededError, match=r"longer than 0\.0001 s \(workers\.text_timeout_s\)") as caught:
        intake(timeout_s=0.0001).tokenize(TextInput(LONG * 8))
    assert caught.value.metadata == {"bound": "workers.text_timeout_s", "limit": "0.0001"}
    assert len(intake().tokenize(TextInput(LONG))) == len(LONG.encode())


def test_encoding_lets_other_threads_run() -> None:
    """While a text is encoded in this process, other threads of Python go on: nobody waits for it."""
    tokenizer = Tokenizer(VOCABULARY, size=260)
    started, ended = threading.Event(), threading.Event()

    def encode() -> None:
        started.set()
        tokenizer.encode("ab " * 300_000)
        ended.set()

    thread = threading.Thread(target=encode)
    thread.start()
    assert started.wait(DEADLINE_S)
    turns = 0
    while not ended.is_set() and turns < 10_000:
        turns += 1
    assert turns == 10_000
    thread.join(DEADLINE_S)


@pytest.mark.parametrize("seed", range(5))
def test_many_tokens_at_once_are_the_text_that_they_are_one_by_one(seed: int) -> None:
    """Long lists of tokens, with characters cut at any place and bytes that are none, give the text of a stream."""
    draw = random.Random(seed)
    pieces = ["a", "é", b"\xf0", b"\x9f", b"\x98", b"\x80", b"\xff", "", " b"]
    ids = [draw.randrange(len(pieces)) for _ in range(20_000)]
    stream = Detokenizer(pieces)
    assert decode(pieces, ids) == "".join(map(stream.push, ids)) + stream.finish()
    assert decode(pieces, array("I", ids)) == decode(pieces, ids)


def test_a_slow_conversation_delays_no_other(tmp_path: Path) -> None:
    """While the template hangs for as many tasks as are prepared at once but one, others come in and end."""
    request = LoadRequest(path=write_fake_model(tmp_path), device="fake:0", capacity_bytes=1 << 30)
    model = FakeBackend().load(request, lambda _: None)
    outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
    limits = EngineLimits(template_timeout_s=5.0)
    model = replace(model, vocabulary=replace(VOCABULARY, chat_template=SLOW))
    loop = Loop(model, limits, outputs.put, cells=fake_cells())
    thread = threading.Thread(target=loop.run)
    thread.start()
    slow = range(3)
    assert len(slow) < AT_ONCE
    for handle in slow:
        loop.submit(Submission(handle, ChatInput((Message("user", "slow"),)), Sampling(temperature=0)))
    for handle in (10, 11):
        loop.submit(Submission(handle, ChatInput((Message("user", "quick"),)), Sampling(temperature=0, max_tokens=10)))
    ends: dict[int, FinishReason | InferdError] = {}
    while len(ends) < 5:
        for ended in outputs.get(timeout=DEADLINE_S).ended:
            ends[ended.handle] = ended.error or ended.reason
    loop.stop()
    thread.join(DEADLINE_S)
    assert set(list(ends)[:2]) == {10, 11}
    assert {type(ends[handle]) for handle in slow} == {ChatTemplateError}


@pytest.mark.parametrize("alone", [False, True])
def test_the_texts_of_a_suspect_are_encoded_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    """Of a task at which workers have died no text is encoded in this one, which could die of it; it runs as ever."""
    request = LoadRequest(path=write_fake_model(tmp_path), device="fake:0", capacity_bytes=1 << 30)
    model = FakeBackend().load(request, lambda _: None)
    outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
    loop = Loop(model, EngineLimits(text_timeout_s=DEADLINE_S), outputs.put, cells=fake_cells())
    encode, here = Tokenizer.encode, list[str]()

    def watched(tokenizer: Tokenizer, text: str, *, template: bool = False) -> list[int]:
        here.append(text)
        return encode(tokenizer, text, template=template)

    monkeypatch.setattr(Tokenizer, "encode", watched)  # of this process: cells are born of another one
    thread = threading.Thread(target=loop.run)
    thread.start()
    sampling = Sampling(temperature=0, max_tokens=4, bad_words=("x",))
    loop.submit(Submission(1, TextInput("ab"), sampling, alone=alone))
    text, ended = "", False
    while not ended:
        output = outputs.get(timeout=DEADLINE_S)
        text += "".join(output.texts)
        ended = any(each.handle == 1 and each.error is None for each in output.ended)
    loop.stop()
    thread.join(DEADLINE_S)
    assert text == "abab"
    assert here == ([] if alone else ["ab", "x", " x"])
