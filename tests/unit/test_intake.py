from dataclasses import replace

import pytest
from shared_cells import fake_cells

from inferd.engine.token.intake import Intake
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.sequence import Origin, Sequence
from inferd.engine.work import ChatInput, Embedding, Message, TaskInput, TextInput, TokenInput
from inferd.errors import (
    ChatTemplateError,
    InferdError,
    InvalidFieldError,
    ModelLoadError,
    PromptTooLongError,
    UnsupportedInputError,
)
from inferd.plugin import EmbeddingDefaults, TokenLimits, Vocabulary
from inferd.plugin.backend import Pooling
from inferd.sampling import Sampling
from inferd.testing.fake import VOCABULARY

SESSION = TokenLimits(
    vocabulary_size=260, context_tokens=100, block_tokens=8, blocks=50, max_sequences=4, max_step_tokens=64
)


def accept(
    task_input: TaskInput,
    sampling: Sampling | None = None,
    *,
    session: TokenLimits = SESSION,
    vocabulary: Vocabulary = VOCABULARY,
    max_output_tokens: int = 80,
) -> Sequence:
    limits = EngineLimits(max_output_tokens=max_output_tokens, template_timeout_s=60)
    intake = Intake(vocabulary, Bounds.of(session, limits), cells=fake_cells(), limits=limits)
    return intake.accept(Origin(5), task_input, sampling or Sampling())


def test_text() -> None:
    """A text becomes its tokens; what is left of the context, within the kernel's bound, is for the output."""
    sequence = accept(TextInput("hello"))
    assert sequence.handle == 5
    assert bytes(sequence.prompt.tolist()) == b"hello"
    assert sequence.most_output == 80
    assert accept(TextInput("x" * 40)).most_output == 60


def test_chat() -> None:
    """A chat becomes what the template makes of it."""
    sequence = accept(ChatInput((Message("user", "hi"),)))
    assert sequence.prompt.tolist() == [256, *b"hi", 257]


def test_token_ids() -> None:
    """Token ids are taken as they are."""
    assert accept(TokenInput((0, 259))).prompt.tolist() == [0, 259]


def test_output_is_bounded_by_the_pool() -> None:
    """Where the whole pool holds less than the context, it is the bound."""
    assert accept(TextInput("x" * 10), session=replace(SESSION, blocks=3)).most_output == 14


TOO_LONG = {"prompt_tokens": "100", "limit_tokens": "100"}


@pytest.mark.parametrize(
    ("task_input", "sampling", "error", "message", "metadata"),
    [
        (TextInput("x" * 100), Sampling(), PromptTooLongError, "100 tokens .* context of 100", TOO_LONG),
        (TextInput("x" * 60), Sampling(max_tokens=41), PromptTooLongError, "60 .* 41 make 101, .* 100 .* at most 40",
            {"prompt_tokens": "60", "limit_tokens": "100", "max_tokens": "41"}),
        (TextInput("x"), Sampling(max_tokens=81), InvalidFieldError, "max_tokens is 81; .* from 0 to 80", {}),
        (TextInput(""), Sampling(), InvalidFieldError, "no tokens", {}),
        (TokenInput(()), Sampling(), InvalidFieldError, "no tokens", {}),
        (TokenInput((1, 260)), Sampling(), InvalidFieldError, "token id 260 .* 260 tokens",
            {"token_id": "260", "vocabulary_size": "260"}),
        (ChatInput((Message("robot", "hi"),)), Sampling(), ChatTemplateError, "unknown role robot",
            {"cause": "TemplateError: unknown role robot"}),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(
    task_input: TaskInput, sampling: Sampling, error: type[InferdError], message: str, metadata: dict[str, str]
) -> None:
    """What the model cannot take is refused with both numbers, for people and for programs; nothing is cut."""
    with pytest.raises(error, match=message) as raised:
        accept(task_input, sampling)
    assert raised.value.metadata == metadata
    if error is InvalidFieldError:
        assert raised.value.field.startswith("spec.")


def test_longest_that_fits() -> None:
    """A prompt and an output that fill the context to the last token are taken."""
    assert accept(TextInput("x" * 60), Sampling(max_tokens=40)).most_output == 40
    assert accept(TextInput("x" * 99)).most_output == 1


def test_chat_without_a_template() -> None:
    """A model without a chat template says so, and what to do instead."""
    with pytest.raises(UnsupportedInputError, match="no chat template; send a text prompt"):
        accept(ChatInput((Message("user", "hi"),)), vocabulary=replace(VOCABULARY, chat_template=None))


def test_vocabulary_without_a_tokenizer() -> None:
    """A vocabulary that makes no tokenizer fails when the model is loaded."""
    with pytest.raises(ModelLoadError):
        accept(TextInput("x"), vocabulary=replace(VOCABULARY, pre_tokenizer="unheard-of"))


def test_end_tokens() -> None:
    """The model's end tokens end a sequence, unless the task asks to go on."""
    ends, goes_on = accept(TextInput("x")), accept(TextInput("x"), Sampling(ignore_eos=True))
    for sequence in (ends, goes_on):
        sequence.accept(259)
    assert ends.finish is not None
    assert goes_on.finish is None


def test_impossible_limits() -> None:
    """A session that states a limit below 1 is named with it."""
    with pytest.raises(ValueError, match="limit blocks is 0; it must be at least 1"):
        Bounds.of(replace(SESSION, blocks=0), EngineLimits())


def test_tasks_at_once() -> None:
    """As many sequences run at once as the session takes, but no more than a step has tokens."""
    assert Bounds.of(SESSION, EngineLimits()).rows == 4
    assert Bounds.of(SESSION, EngineLimits(step_tokens=3)).rows == 3


@pytest.mark.parametrize(
    ("sampling", "field", "message"),
    [
        (Sampling(stop_token_ids=(260,)), "stop_token_ids", "260 is outside the model's vocabulary of 260"),
        (Sampling(logit_bias=((999, 1.0),)), "logit_bias", "999 is outside"),
        (Sampling(min_tokens=81), "min_tokens", "min_tokens is 81; at most 80"),
    ],
)
def test_sampling_that_the_model_cannot_do(sampling: Sampling, field: str, message: str) -> None:
    """Tokens outside the vocabulary, and more tokens than there can be, are errors of their field, with numbers."""
    with pytest.raises(InvalidFieldError, match=message) as caught:
        accept(TextInput("hi"), sampling)
    assert caught.value.field == f"spec.sampling.{field}"


def test_more_prompt_logprobs_than_a_message_holds() -> None:
    """A prompt of which too much would have to be told is refused with the numbers, before it is computed."""
    many = replace(SESSION, context_tokens=20_000, blocks=5000)
    ids = TokenInput((1,) * 10_000)
    with pytest.raises(InvalidFieldError, match="210000 log probabilities; at most 200000") as caught:
        accept(ids, Sampling(prompt_logprobs=20), session=many)
    assert caught.value.field == "spec.sampling.prompt_logprobs"
    assert accept(ids, Sampling(prompt_logprobs=19), session=many).report.scores is not None


def test_words_are_kept_out_in_both_spellings() -> None:
    """A bad word becomes its tokens by itself and behind a space."""
    rules = accept(TextInput("hi"), Sampling(bad_words=("no",))).rules
    assert rules is not None
    assert rules.phrases == (tuple(b"no"), tuple(b" no"))


def test_texts_to_embed_end_as_the_model_wants() -> None:
    """The token that ends texts is put behind a text to embed, unless it is there; nothing else gets it."""
    bounds = Bounds.of(replace(SESSION, embedding_size=3), EngineLimits(max_output_tokens=80))
    closing = replace(VOCABULARY, eos_ids=(259, 258))
    for adds, expected in ((True, [*b"hi", 259]), (False, [*b"hi"])):
        defaults = EmbeddingDefaults(pooling=Pooling.MEAN, add_eos=adds)
        intake = Intake(closing, bounds, cells=fake_cells(), limits=EngineLimits(), embedding=defaults)
        assert intake.embed(Origin(5), TextInput("hi"), Embedding()).prompt.tolist() == expected
        assert intake.embed(Origin(5), TokenInput((1, 2)), Embedding()).prompt.tolist() == [1, 2]
        assert intake.accept(Origin(5), TextInput("hi"), Sampling()).prompt.tolist() == [*b"hi"]
        for pooling, whole in ((None, True), (Pooling.LAST, False), (Pooling.MEAN, True)):
            pool = intake.embed(Origin(5), TextInput("hi"), Embedding(pooling=pooling)).pool
            assert pool is not None
            assert pool.whole is whole
