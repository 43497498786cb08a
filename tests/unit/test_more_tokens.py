"""A tokenizer with more tokens than the network has rows: tokens were added, and the embedding was not resized."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from inferd.core.task import FinishReason
from inferd.engine.token.limits import EngineLimits, GrammarLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput, Embedding, Message, TaskInput, TextInput
from inferd.errors import InferdError, InvalidFieldError
from inferd.plugin import LoadRequest, Vocabulary
from inferd.sampling import Grammar, GrammarKind, Sampling
from inferd.testing.fake import SPECIALS, VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

DEADLINE_S = 60.0
ROWS = 260
ADDED = "<tool_call>"  # token 260
PATIENT = EngineLimits(grammar=GrammarLimits(compile_s=DEADLINE_S, step_s=DEADLINE_S, wait_s=DEADLINE_S))


def tokenizer() -> Vocabulary:
    """The fake backend's tokens as a tokenizer.json, and more than a word of a mask besides."""
    inner = Library(models.BPE(vocab={token: n for n, token in enumerate(VOCABULARY.tokens[:256])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    inner.add_tokens([ADDED, *(f"<more {number}>" for number in range(40))])
    template = VOCABULARY.chat_template
    definition = inner.to_str().encode()
    return Vocabulary(algorithm="json", definition=definition, eos_ids=VOCABULARY.eos_ids, chat_template=template)


class Running:
    """A loop, of which each step is made here."""

    def __init__(self, folder: Path) -> None:
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        model = replace(FakeBackend().load(request, lambda _: None), vocabulary=tokenizer())
        self.ended: dict[int, InferdError | FinishReason | None] = {}
        self.text = ""
        self.loop = Loop(model, PATIENT, self._deliver)

    def _deliver(self, output: StepOutput) -> None:
        pairs = zip(output.handles, output.texts, strict=True)
        self.text += "".join(text for handle, text in pairs if handle == 2)
        self.ended |= {each.handle: each.error or each.reason for each in output.ended}
        if 1 in self.ended and len(self.ended) > 1:
            self.loop.stop()

    def run(self, given: TaskInput, sampling: Sampling, *, embedding: Embedding | None = None) -> object:
        """Run a task beside one that has much to say; how it ended."""
        self.loop.submit(Submission(1, TextInput("ab"), Sampling(temperature=0, max_tokens=200)))
        self.loop.submit(Submission(2, given, sampling, embedding=embedding))
        self.loop.run()
        assert self.ended[1] is FinishReason.MAX_TOKENS
        return self.ended[2]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """A loop whose model has 260 rows and 301 tokens."""
    return Running(tmp_path)


@pytest.mark.parametrize(
    ("given", "embedding"),
    [
        (TextInput(f"x{ADDED}"), None),
        (ChatInput((Message("user", f"x{ADDED}"),), parse_control_tokens=True), None),
        (TextInput(f"x{ADDED}"), Embedding()),
    ],
    ids=["text", "chat", "embedding"],
)
def test_a_text_with_such_a_token_is_refused(running: Running, given: TaskInput, embedding: Embedding | None) -> None:
    """It ends before it has a place, with the error that names token and rows; the task beside it goes on."""
    error = running.run(given, Sampling(), embedding=embedding)
    assert isinstance(error, InvalidFieldError)
    assert f"token id {ROWS} is outside the model's vocabulary of {ROWS} tokens" in error.message
    assert (ADDED in error.message, error.field) == (True, "spec.input")
    assert error.metadata == {"token_id": str(ROWS), "vocabulary_size": str(ROWS)}


def test_bad_words_of_such_tokens(running: Running) -> None:
    """What no output can hold forbids nothing; a word beside it is kept out."""
    words = Sampling(temperature=0, max_tokens=8, bad_words=(ADDED, f"b{ADDED}", "c"))
    assert running.run(TextInput("abc"), words) is FinishReason.MAX_TOKENS
    assert "c" not in running.text


@pytest.mark.parametrize("text", ["no", f"<{ADDED}>"], ids=["plain", "added"])
def test_grammars(running: Running, text: str) -> None:
    """A grammar is followed by the tokens that have logits, also to a text that the tokenizer has another one for."""
    grammar = Grammar(GrammarKind.CHOICE, texts=(text,))
    wanted = Sampling(temperature=0, max_tokens=40, grammar=grammar)
    assert running.run(TextInput("abc"), wanted) is FinishReason.END_OF_TEXT
    assert running.text == text
