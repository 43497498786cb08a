"""How tokens are chosen: from the wire, with the bounds that `sampling.proto` states."""

from collections.abc import Sequence
from typing import Any

from inferd.core.sampling_defaults import NAMES, SamplingDefaults, wrong_default
from inferd.core.task import Grammar, GrammarKind, Sampling
from inferd.errors import InvalidFieldError
from inferd.services.extents import MOST_CHOICES
from inferd_api.v1 import sampling_pb2 as pb

MOST_TEXT = 256  # characters of a stop string or a bad word
MOST_BIAS = 100.0
MOST_SAMPLES = 64
MOST_LOGPROBS = 20
MOST_GRAMMAR = 65536  # characters


def read_sampling(s: pb.SamplingParams, *, drawn_seed: int) -> Sampling:
    """How tokens are chosen; `drawn_seed` is the default of the seed, the model's defaults are filled in by its worker.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    max_tokens = s.max_tokens if s.HasField("max_tokens") else None
    _check_lengths(s, max_tokens)
    given = _read_given(s, "spec.sampling")
    return Sampling(
        max_tokens=max_tokens,
        seed=s.seed if s.HasField("seed") else drawn_seed,
        stop=_read_texts(s.stop, "stop", "stop string"),
        ignore_eos=s.ignore_eos,
        logit_bias=_read_bias(s),
        bad_words=_read_texts(s.bad_words, "bad_words", "bad word"),
        n=int(_read_number(s, "n", 1, MOST_SAMPLES, default=1)),
        logprobs=_read_top(s, "logprobs"),
        prompt_logprobs=_read_top(s, "prompt_logprobs"),
        min_tokens=s.min_tokens,
        stop_token_ids=tuple(s.stop_token_ids),
        echo=s.echo,
        grammar=_read_grammar(s.grammar) if s.HasField("grammar") else None,
        fit_max_tokens=s.fit_max_tokens,
        unset=tuple(name for name in NAMES if name not in given),
        **given,
    )


def read_sampling_defaults(defaults: pb.SamplingDefaults) -> SamplingDefaults:
    """What the tasks of a model take for what they leave unset.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    return SamplingDefaults(**_read_given(defaults, "model.sampling_defaults"))


def write_sampling_defaults(defaults: SamplingDefaults) -> pb.SamplingDefaults:
    """The same for the wire."""
    numbers: dict[str, Any] = defaults.numbers
    return pb.SamplingDefaults(**numbers)


def _read_given(message: pb.SamplingParams | pb.SamplingDefaults, at: str) -> dict[str, Any]:
    """Those fields that can have a default of the model and are set, by name."""
    given = {name: getattr(message, name) for name in NAMES if message.HasField(name)}  # type: ignore[arg-type]
    for name, value in given.items():
        if expected := wrong_default(name, value):
            raise InvalidFieldError(f"{name} is {value:g}; it must be {expected}", field=f"{at}.{name}")
    return given


def _refuse(name: str, message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field=f"spec.sampling.{name}")


def _check_lengths(s: pb.SamplingParams, max_tokens: int | None) -> None:
    if max_tokens is not None and max_tokens < 1:
        raise _refuse("max_tokens", "max_tokens is 0; it must be at least 1")
    if max_tokens is not None and s.min_tokens > max_tokens:
        raise _refuse("min_tokens", f"min_tokens is {s.min_tokens}; it must be at most max_tokens, {max_tokens}")


def _read_number(s: pb.SamplingParams, name: str, least: float, most: float, *, default: float) -> float:
    value: float = getattr(s, name) if s.HasField(name) else default  # type: ignore[arg-type]
    if not least <= round(value, 7) <= most:  # NaN is neither; 0.01 comes as the nearest number of 32 bits
        raise _refuse(name, f"{name} is {value:g}; it must be from {least:g} to {most:g}")
    return value


def _read_top(s: pb.SamplingParams, name: str) -> int | None:
    return int(_read_number(s, name, 0, MOST_LOGPROBS, default=0)) if s.HasField(name) else None  # type: ignore[arg-type]


def _read_texts(texts: Sequence[str], name: str, noun: str) -> tuple[str, ...]:
    for n, text in enumerate(texts):
        if not 1 <= len(text) <= MOST_TEXT:
            message = f"{noun} {n} has {len(text)} characters; it must have 1 to {MOST_TEXT}"
            raise _refuse(f"{name}[{n}]", message)
    return tuple(texts)


def _read_bias(s: pb.SamplingParams) -> tuple[tuple[int, float], ...]:
    for token_id, bias in s.logit_bias.items():
        if not -MOST_BIAS <= bias <= MOST_BIAS:
            message = f"logit_bias of token {token_id} is {bias:g}; it must be from {-MOST_BIAS:g} to {MOST_BIAS:g}"
            raise _refuse("logit_bias", message)
    return tuple(sorted(s.logit_bias.items()))


def _read_grammar(grammar: pb.Grammar) -> Grammar:
    name = grammar.WhichOneof("kind")
    if name is None:
        raise _refuse("grammar", "grammar is empty; set one of json_schema, regex, lark and choice")
    kind = GrammarKind[name.upper()]
    if kind is GrammarKind.CHOICE:
        texts = tuple(grammar.choice.texts)
        if not texts:
            raise _refuse("grammar.choice.texts", f"choice has 0 texts; it must have 1 to {MOST_CHOICES}")
        result = Grammar(kind, texts=texts)
    else:
        result = Grammar(kind, source=getattr(grammar, name))
    size = max(map(len, (result.source, *result.texts)))
    if size > MOST_GRAMMAR:
        raise _refuse(f"grammar.{name}", f"{name} has {size} characters; at most {MOST_GRAMMAR}")
    return result
