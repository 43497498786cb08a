"""How tokens are chosen: from the wire, with the bounds that `sampling.proto` states."""

from collections.abc import Sequence

from inferd.core.task import Grammar, GrammarKind, Sampling
from inferd.errors import InvalidFieldError
from inferd_api.v1 import sampling_pb2 as pb

MOST_STOPS = 16
MOST_BAD_WORDS = 64
MOST_TEXT = 256  # characters of a stop string or a bad word
MOST_TEMPERATURE = 100.0
LEAST_REPETITION, MOST_REPETITION = 0.01, 10.0  # what it divides must stay a finite number of 32 bits
MOST_PENALTY = 10.0
MOST_BIAS = 100.0
MOST_BIASES = 1024
MOST_SAMPLES = 64
MOST_LOGPROBS = 20
MOST_STOP_TOKENS = 64
MOST_GRAMMAR = 65536  # characters
MOST_CHOICES = 1024


def read_sampling(s: pb.SamplingParams, *, drawn_seed: int) -> Sampling:
    """How tokens are chosen, every unset field at its default; `drawn_seed` is that of the seed.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    max_tokens = s.max_tokens if s.HasField("max_tokens") else None
    _check_lengths(s, max_tokens)
    return Sampling(
        max_tokens=max_tokens,
        temperature=_read_number(s, "temperature", 0, MOST_TEMPERATURE, default=1),
        top_k=s.top_k,
        top_p=_read_positive(s, "top_p", 1),
        seed=s.seed if s.HasField("seed") else drawn_seed,
        stop=_read_texts(s.stop, "stop", "stop string", most=MOST_STOPS),
        ignore_eos=s.ignore_eos,
        min_p=_read_number(s, "min_p", 0, 1, default=0),
        repetition_penalty=_read_number(s, "repetition_penalty", LEAST_REPETITION, MOST_REPETITION, default=1),
        frequency_penalty=_read_number(s, "frequency_penalty", -MOST_PENALTY, MOST_PENALTY, default=0),
        presence_penalty=_read_number(s, "presence_penalty", -MOST_PENALTY, MOST_PENALTY, default=0),
        logit_bias=_read_bias(s),
        bad_words=_read_texts(s.bad_words, "bad_words", "bad word", most=MOST_BAD_WORDS),
        n=int(_read_number(s, "n", 1, MOST_SAMPLES, default=1)),
        logprobs=_read_top(s, "logprobs"),
        prompt_logprobs=_read_top(s, "prompt_logprobs"),
        min_tokens=s.min_tokens,
        stop_token_ids=tuple(s.stop_token_ids),
        echo=s.echo,
        grammar=_read_grammar(s.grammar) if s.HasField("grammar") else None,
    )


def _refuse(name: str, message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field=f"spec.sampling.{name}")


def _check_lengths(s: pb.SamplingParams, max_tokens: int | None) -> None:
    if max_tokens is not None and max_tokens < 1:
        raise _refuse("max_tokens", "max_tokens is 0; it must be at least 1")
    if max_tokens is not None and s.min_tokens > max_tokens:
        raise _refuse("min_tokens", f"min_tokens is {s.min_tokens}; it must be at most max_tokens, {max_tokens}")
    if len(s.stop_token_ids) > MOST_STOP_TOKENS:
        raise _refuse("stop_token_ids", f"{len(s.stop_token_ids)} stop tokens; at most {MOST_STOP_TOKENS}")


def _read_number(s: pb.SamplingParams, name: str, least: float, most: float, *, default: float) -> float:
    value: float = getattr(s, name) if s.HasField(name) else default  # type: ignore[arg-type]
    if not least <= round(value, 7) <= most:  # NaN is neither; 0.01 comes as the nearest number of 32 bits
        raise _refuse(name, f"{name} is {value:g}; it must be from {least:g} to {most:g}")
    return value


def _read_positive(s: pb.SamplingParams, name: str, most: float) -> float:
    value: float = getattr(s, name) if s.HasField(name) else 1  # type: ignore[arg-type]
    if not 0 < value <= most:
        raise _refuse(name, f"{name} is {value:g}; it must be above 0 and at most {most:g}")
    return value


def _read_top(s: pb.SamplingParams, name: str) -> int | None:
    return int(_read_number(s, name, 0, MOST_LOGPROBS, default=0)) if s.HasField(name) else None  # type: ignore[arg-type]


def _read_texts(texts: Sequence[str], name: str, noun: str, *, most: int) -> tuple[str, ...]:
    if len(texts) > most:
        raise _refuse(name, f"{len(texts)} {noun}s; at most {most}")
    for n, text in enumerate(texts):
        if not 1 <= len(text) <= MOST_TEXT:
            message = f"{noun} {n} has {len(text)} characters; it must have 1 to {MOST_TEXT}"
            raise _refuse(f"{name}[{n}]", message)
    return tuple(texts)


def _read_bias(s: pb.SamplingParams) -> tuple[tuple[int, float], ...]:
    if len(s.logit_bias) > MOST_BIASES:
        raise _refuse("logit_bias", f"{len(s.logit_bias)} tokens in logit_bias; at most {MOST_BIASES}")
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
        if not 1 <= len(texts) <= MOST_CHOICES:
            raise _refuse("grammar.choice.texts", f"choice has {len(texts)} texts; it must have 1 to {MOST_CHOICES}")
        result = Grammar(kind, texts=texts)
    else:
        result = Grammar(kind, source=getattr(grammar, name))
    size = max(map(len, (result.source, *result.texts)))
    if size > MOST_GRAMMAR:
        raise _refuse(f"grammar.{name}", f"{name} has {size} characters; at most {MOST_GRAMMAR}")
    return result
