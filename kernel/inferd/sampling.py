"""How tokens are chosen and when generation ends: every parameter of `inferd.v1.SamplingParams`, once.

What it is where nothing is said, its range, what the command line says of it, how model files name it: whoever checks,
offers or fills in a parameter reads it here, by its name. A new one is a field in the proto, a keyword of the client, a
line here, and what the engine does with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from inferd.core.sampling_defaults import SamplingDefaults
from inferd.errors import InvalidFieldError, PromptTooLongError
from inferd.sampling_grammar import Grammar as Grammar  # noqa: PLC0414 - for who checks types, as the next one
from inferd.sampling_grammar import GrammarKind as GrammarKind  # noqa: PLC0414

AT: Final = "spec.sampling."
"""What the paths of the fields begin with."""

MOST_PROMPT_LOGPROBS: Final = 200_000
"""Log probabilities told of one prompt: they go to the client in one message of about 2.5 MB."""

COLDEST: Final = 1e-6
"""Below this temperature the neighbour of the best float32 logit gets no weight that matters: greedy."""

_MOST_TEXT, _MOST_BREAK = 256, 40  # characters: of a text, and of what ends a stretch that repeats itself
_MOST_WINDOW: Final = 32_768  # tokens in which such stretches are looked for, at each token


Asked = TypeVar("Asked", bound="Sampling")


class Form(Enum):
    """What values of a parameter are."""

    NUMBER = 1
    WHOLE = 2
    FLAG = 3
    TEXTS = 4
    TOKENS = 5
    BIASES = 6  # numbers by token
    GRAMMAR = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    Attributes:
        name: As on the wire.
        form: What its values are.
        low: The least that a number may be; None for no bound but the wire's, as for `high`.
        high: The most.
        above: Whether it must be above `low`.
        most: Entries of a list.
        characters: Of an entry that is a text.
        nouns: What entries are.
        standard: What tasks take where neither they nor their model say anything; None where no model says anything.
        gguf: Behind "general.sampling." in files of the GGUF format, as llama.cpp writes it; "" where it has none.
        implied: What a generation_config.json that samples means where it does not say.
        draws: Whether it matters only where tokens are drawn, not where the likeliest is taken.
        words: For the command line; "" where that does not offer it.
        tells: Whether it changes what is told, and not what is written.
    """

    name: str
    form: Form
    low: float | None = None
    high: float | None = None
    above: bool = False
    most: int | None = None
    characters: int | None = None
    nouns: str = ""
    standard: float | None = None
    gguf: str = ""
    implied: float | None = None
    draws: bool = False
    words: str = ""
    tells: bool = False

    @property
    def range(self) -> str:
        """What a number must be, in words."""
        if self.high is None:
            return f"at least {self.low}"
        return f"above {self.low} and at most {self.high}" if self.above else f"from {self.low} to {self.high}"

    def wrong(self, value: float) -> str:
        """What a number would have to be, "" when it is that. 0.01 may come as the nearest number of 32 bits."""
        number = round(value, 7)
        least = self.low is None or (number > self.low if self.above else number >= self.low)  # NaN is neither
        most = self.high is None or number <= self.high
        whole = self.form is not Form.WHOLE or value % 1 == 0
        return "" if least and most and whole else self.range


def _is(form: Form, neutral: Any, **facts: Any) -> Any:
    """A parameter that is `neutral` where nothing is said."""
    return field(default=neutral, metadata={"form": form, **facts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What one task asks for; what each parameter means stands in `inferd.v1.SamplingParams`."""

    max_tokens: int | None = _is(
        Form.WHOLE, None, low=0, words="Most tokens to produce, or 'all' that there can be. Default 512."
    )
    fit_max_tokens: bool = _is(Form.FLAG, neutral=False)
    temperature: float = _is(
        Form.NUMBER,
        1.0,
        low=0,
        high=100,
        standard=0.7,
        gguf="temp",
        implied=1.0,
        draws=True,
        words="Softmax temperature; 0 always takes the likeliest token. Default: the model's.",
    )
    top_k: int = _is(
        Form.WHOLE,
        0,
        low=0,
        high=2**31 - 1,
        standard=0,
        gguf="top_k",
        implied=50,
        draws=True,
        words="Keep the k likeliest tokens.",
    )
    top_p: float = _is(
        Form.NUMBER,
        1.0,
        low=0,
        high=1,
        above=True,
        standard=1.0,
        gguf="top_p",
        draws=True,
        words="Keep tokens up to this probability.",
    )
    min_p: float = _is(
        Form.NUMBER,
        0.0,
        low=0,
        high=1,
        standard=0.05,
        gguf="min_p",
        draws=True,
        words="Keep tokens at least this likely, relative to the likeliest.",
    )
    repetition_penalty: float = _is(
        Form.NUMBER,
        1.0,
        low=0.01,  # what it divides must stay a finite number of 32 bits
        high=10,
        standard=1.0,
        gguf="penalty_repeat",
        words="Above 1, makes tokens that were there already less likely.",
    )
    frequency_penalty: float = _is(
        Form.NUMBER,
        0.0,
        low=-10,
        high=10,
        standard=0.0,
        words="Is taken from a token's logit each time that it is produced.",
    )
    presence_penalty: float = _is(
        Form.NUMBER,
        0.0,
        low=-10,
        high=10,
        standard=0.0,
        words="Is taken from a token's logit once it was produced.",
    )
    penalty_window: int = _is(
        Form.WHOLE, 0, low=0, high=2**31 - 1, words="How many of the last tokens the penalties look at; 0 is all."
    )
    dry_multiplier: float = _is(
        Form.NUMBER, 0.0, low=0, high=100, words="Above 0, makes tokens that go on repeating a stretch less likely."
    )
    dry_base: float = _is(
        Form.NUMBER, 1.75, low=1, high=10, words="So many times less with each token of the stretch. Default 1.75."
    )
    dry_allowed_length: int = _is(Form.WHOLE, 2, low=1, high=512, words="From so many repeated tokens on. Default 2.")
    dry_sequence_breakers: tuple[str, ...] = _is(
        Form.TEXTS,
        ("\n", ":", '"', "*"),
        most=16,
        characters=_MOST_BREAK,
        nouns="sequence breakers",
        words="Nothing repeats itself over this text. Default: line feed, colon, quotation mark, asterisk.",
    )
    dry_window: int = _is(
        Form.WHOLE,
        _MOST_WINDOW,
        low=1,
        high=_MOST_WINDOW,
        words=f"Among how many of the last tokens. Default {_MOST_WINDOW}.",
    )
    top_n_sigma: float = _is(
        Form.NUMBER,
        0.0,
        low=0,
        high=100,
        draws=True,
        words="Keep tokens whose logit is at most so many standard deviations below the best; 0 is all.",
    )
    typical_p: float = _is(
        Form.NUMBER,
        1.0,
        low=0,
        high=1,
        above=True,
        draws=True,
        words="Keep the tokens of the most usual surprise, up to this probability.",
    )
    xtc_probability: float = _is(
        Form.NUMBER, 0.0, low=0, high=1, draws=True, words="How often the likeliest tokens are left out."
    )
    xtc_threshold: float = _is(
        Form.NUMBER, 0.1, low=0, high=1, draws=True, words="Those at least this likely, but one. Default 0.1."
    )
    seed: int = _is(Form.WHOLE, 0, low=0, high=2**64 - 1, words="Key of the random numbers.")
    min_tokens: int = _is(
        Form.WHOLE, 0, low=0, high=2**32 - 1, words="Least tokens to produce before the model may end."
    )
    stop: tuple[str, ...] = _is(
        Form.TEXTS, (), most=16, characters=_MOST_TEXT, nouns="stop strings", words="End before this text."
    )
    stop_token_ids: tuple[int, ...] = _is(Form.TOKENS, (), most=64, nouns="stop tokens")
    ignore_eos: bool = _is(Form.FLAG, neutral=False)
    bad_words: tuple[str, ...] = _is(
        Form.TEXTS, (), most=64, characters=_MOST_TEXT, nouns="bad words", words="Keep from this text."
    )
    mirostat_tau: float = _is(
        Form.NUMBER, 0.0, low=0, high=100, draws=True, words="Above 0, mirostat 2 aims at so many bits of surprise."
    )
    mirostat_eta: float = _is(
        Form.NUMBER, 0.1, low=0, high=1, draws=True, words="How fast mirostat learns. Default 0.1."
    )
    logit_bias: tuple[tuple[int, float], ...] = _is(
        Form.BIASES, (), low=-100, high=100, most=1024, nouns="tokens in logit_bias"
    )
    n: int = _is(Form.WHOLE, 1, low=1, high=64)
    logprobs: int | None = _is(
        Form.WHOLE,
        None,
        low=0,
        high=20,
        words="With -o json: how likely each token was, and this many others.",
        tells=True,
    )
    prompt_logprobs: int | None = _is(Form.WHOLE, None, low=0, high=20)
    prompt_logprobs_last: int | None = _is(Form.WHOLE, None, low=1, high=2**32 - 1)
    prompt_entropies: bool = _is(Form.FLAG, neutral=False)
    echo: bool = _is(Form.FLAG, neutral=False)
    grammar: Grammar | None = field(default=None, metadata={"form": Form.GRAMMAR})

    @property
    def samples(self) -> tuple[Self, ...]:
        """What each sample of the task is chosen by; one where nothing is written."""
        count = 1 if self.max_tokens == 0 else self.n
        return (self, *(derive(self, sample) for sample in range(1, count)))

    @property
    def held_by(self) -> tuple[str, ...]:
        """The texts that hold back what might become one of them."""
        return self.stop

    @property
    def measured(self) -> bool:
        """Whether it is told how likely the tokens of the output were."""
        return self.logprobs is not None

    @property
    def constrained(self) -> bool:
        """Whether the output must be something."""
        return self.grammar is not None

    @property
    def steady(self) -> bool:
        """Whether nothing is told or compiled token by token: then several tokens may come of one step."""
        return self.grammar is None and not self.measured and self.aim is None

    @property
    def aim(self) -> tuple[float, float, float] | None:
        """What mirostat goes by where tokens are drawn by it: its tau, its eta, and the temperature; else None."""
        drawn = self.mirostat_tau > 0 and self.temperature >= COLDEST
        return (self.mirostat_tau, self.mirostat_eta, self.temperature) if drawn else None

    def most_output(self, prompt: int, *, context: int, most: int) -> int:
        """Most tokens to produce behind a prompt of `prompt` tokens.

        Args:
            prompt: Tokens of the prompt.
            context: Tokens of prompt and output that the model can take.
            most: Tokens of an output that the kernel allows.

        Raises:
            InvalidFieldError: More are asked for than the kernel allows, or more at least than there can be.
            PromptTooLongError: They do not fit.
        """
        asked = self.max_tokens
        if asked is not None and self.fit_max_tokens:
            asked = min(asked, most, max(1, context - prompt))
        if asked is not None and not 0 <= asked <= most:
            raise InvalidFieldError(f"max_tokens is {asked}; it must be from 0 to {most}", field=f"{AT}max_tokens")
        metadata = {"prompt_tokens": str(prompt), "limit_tokens": str(context)}
        if prompt >= context:
            raise PromptTooLongError(
                f"the prompt has {prompt} tokens and fills the model's context of {context} tokens; shorten it",
                metadata=metadata,
            )
        if asked is None:
            asked = min(context - prompt, most)
        elif prompt + asked > context:
            raise PromptTooLongError(
                f"the prompt of {prompt} tokens and max_tokens of {asked} make {prompt + asked}, over the model's "
                f"context of {context} tokens; shorten the prompt or ask for at most {context - prompt}",
                metadata=metadata | {"max_tokens": str(asked)},
            )
        if self.min_tokens > asked:
            raise InvalidFieldError(
                f"min_tokens is {self.min_tokens}; at most {asked} tokens can be produced", field=f"{AT}min_tokens"
            )
        return asked

    def check_prompt(self, tokens: int) -> None:
        """Refuse to tell too much of a prompt.

        Raises:
            InvalidFieldError: It is.
        """
        top = self.prompt_logprobs
        tokens = tokens if self.prompt_logprobs_last is None else min(tokens, self.prompt_logprobs_last)
        told = 0 if top is None else tokens * (1 + top)
        if told > MOST_PROMPT_LOGPROBS:
            raise InvalidFieldError(
                f"prompt_logprobs of {top} for {tokens} tokens are {told} log probabilities; "
                f"at most {MOST_PROMPT_LOGPROBS} are told of a prompt",
                field=f"{AT}prompt_logprobs",
            )


PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {each.name: Parameter(name=each.name, **each.metadata) for each in fields(Sampling)}
)
"""By name."""

NAMES: Final = tuple(each.name for each in PARAMETERS.values() if each.standard is not None)
"""Those for which a model may have a default."""

ENGINE_DEFAULTS: Final = SamplingDefaults(**{name: PARAMETERS[name].standard for name in NAMES})
"""Of a model that says nothing. Of 40 answers of SmolLM2 to a question of fact 17 were right at temperature 1, 31 at
0.7, and 36 at 0.7 with `min_p` 0.05."""


GREEDY: Final[Mapping[str, float]] = MappingProxyType({"temperature": 0})
"""What has the likeliest token chosen, always."""

ONE_TOKEN: Final = Sampling(max_tokens=1, temperature=0)
"""Of work that wants no text: its one token is of no use."""


def defaults_of(numbers: Mapping[str, float]) -> SamplingDefaults:
    """Defaults from numbers that may have become ones with a fraction on their way."""
    return SamplingDefaults(
        **{name: int(x) if PARAMETERS[name].form is Form.WHOLE else x for name, x in numbers.items()}
    )


def trial_sampling(
    output_tokens: int, *, tells_prompt: bool = False, ends: Sequence[str] | None = None
) -> Mapping[str, Any]:
    """What a model is measured by: greedy, whatever its defaults are, and so many tokens.

    Args:
        output_tokens: How many.
        tells_prompt: Whether it is told how likely the prompt's tokens were, and the likeliest one in place of each.
        ends: Strings that end its text, which may end by itself, too; None for all tokens, whichever they are.
    """
    neutral = {each.name: each.default for each in fields(Sampling) if each.name in NAMES}
    told = {"prompt_logprobs": 1} if tells_prompt else {}
    until = {"ignore_eos": True} if ends is None else {"stop": list(ends), "fit_max_tokens": True}
    return {**neutral, **GREEDY, "max_tokens": output_tokens, **until, **told}


def score_sampling(told: int, *, alternatives: int | None) -> Mapping[str, Any]:
    """What has the last tokens of a prompt told of, with `alternatives` and entropies unless None; writes nothing."""
    shown = {"prompt_entropies": True} if alternatives is not None else {}
    return {**GREEDY, "max_tokens": 0, "prompt_logprobs": alternatives or 0, "prompt_logprobs_last": told, **shown}


def choose_text(message: Any, texts: Sequence[str] = (), *, schema: str = "", most_tokens: int) -> None:
    """Have a message about sampling give the likeliest of some texts, or JSON of a schema, and nothing else."""
    for name, value in {**GREEDY, "max_tokens": most_tokens}.items():
        setattr(message, name, value)
    if schema:
        message.grammar.json_schema = schema
    else:
        message.grammar.choice.texts.extend(texts)


def check_lengths(given: Mapping[str, Any]) -> None:
    """Refuse what asks for more tokens at least than at most.

    Raises:
        InvalidFieldError: It does.
    """
    most, least = given.get("max_tokens"), given.get("min_tokens", 0)
    if most is not None and least > most:
        said = f"min_tokens is {least}; it must be at most max_tokens, {most}"
        raise InvalidFieldError(said, field=f"{AT}min_tokens")


def fill(given: Mapping[str, Any], defaults: SamplingDefaults, *, task_id: str) -> Sampling:
    """What a task asks for, with what its model's tasks take for what it leaves open.

    Args:
        given: What its client gave, by name.
        defaults: Of the model.
        task_id: Random, and the same wherever the task goes on: a seed that is not given follows from it.
    """
    return Sampling(**{"seed": _drawn(task_id.encode()), **defaults.numbers, **given})


def greedy(most_output: int) -> dict[str, float]:
    """What asks for the most likely tokens, so many at most, by name."""
    return {"temperature": 0.0, "max_tokens": most_output}


def derive(sampling: Asked, sample: int) -> Asked:
    """What a sample behind the first is chosen by: a seed of its own, and nothing told of the prompt again.

    The seed is the first 64 bits, lowest first, of the BLAKE2b hash of the task's seed and the sample's number, both as
    64-bit numbers, lowest byte first.
    """
    seed = _drawn(sampling.seed.to_bytes(8, "little") + sample.to_bytes(8, "little"))
    return replace(sampling, seed=seed, echo=False, prompt_logprobs=None)


def _drawn(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
