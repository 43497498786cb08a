"""Fields of requests: which there are, what they may be, and what the kernel is asked for by them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from json import JSONEncoder
from typing import TYPE_CHECKING, Any, Final

from inferd.http.problems import Refusal
from inferd.http.streams import dumps
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_client import Choice, Grammar
from inferd_client.values import MOST_64, OPTIONS

if TYPE_CHECKING:
    from inferd_client import RunOptions

SAMPLED: Final = frozenset(SamplingParams.DESCRIPTOR.fields_by_name)
"""What chooses tokens, by the names that it has in requests and in the kernel alike."""
TASKS: Final = frozenset({"request_id", "prefix_cache", "lease", "timeout_s"})
"""What else of a task can be asked for, as extensions."""
CHATS: Final = frozenset({"add_generation_prompt", "continue_final_message", "template_variables"})
"""What of a conversation can be asked for, as extensions."""
OWN_MARKS: Final = "openai."
"""What the marks begin with that the gateway gives tasks."""
MOST_SHOWN: Final = 80  # characters of a value that is refused
LEAST_SHARE: Final = 1e-6  # of all probability: no model has so many tokens as likely as that
PIECES: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""Writes a value piece by piece: one that is refused may be large."""
TIERS: Final[Mapping[str, str | None]] = {
    "auto": None,
    "default": None,
    "standard_only": None,
    "flex": "low",
    "priority": "high",
}
"""The class of a task for each `service_tier`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that others have and inferd does not.

    Attributes:
        why: In words, with what to write instead.
        neutral: Values that ask for nothing, which are taken.
    """

    why: str
    neutral: tuple[Any, ...] = ()


Table = Mapping[str, Refused]
"""Fields that are refused, by name."""
_TOKENS: Final = "control tokens are no text here, and prompts have those of their template"
OF_OTHERS: Final[Table] = {
    "use_beam_search": Refused("tokens are sampled one after the other", (False,)),
    "best_of": Refused("all samples are given; ask for n", (1,)),
    "skip_special_tokens": Refused(_TOKENS, (True,)),
    "add_special_tokens": Refused(_TOKENS, (False,)),
    "spaces_between_special_tokens": Refused(_TOKENS, (True, False)),
    "include_stop_str_in_output": Refused("texts end before what stops them", (False,)),
    "return_token_ids": Refused("ask /tokenize", (False,)),
}
"""Fields of vLLM's that its clients send with the values that say nothing."""


def check_fields(body: Mapping[str, Any], known: Collection[str], refused: Table) -> None:
    """Refuse fields that are not known, and those that are and are not supported.

    Raises:
        Refusal: There is one.
    """
    for name, value in body.items():
        if value is None:
            continue
        if name in refused:
            each = refused[name]
            if value not in each.neutral and value not in ([], {}, ""):
                raise Refusal(
                    f"{name} is not supported: {each.why}; leave it out", code="UNSUPPORTED_FIELD", param=name
                )
        elif name not in known:
            near = get_close_matches(name[:MOST_SHOWN], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            message = f"there is no field {shown(name)} in this request; {hint}"
            raise Refusal(message, code="UNKNOWN_FIELD", param=name[:MOST_SHOWN])


def need(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A field that has to be there.

    Raises:
        Refusal: It is not, or of another kind.
    """
    value = body.get(name)
    if value is None:
        raise Refusal(f"{name} is missing; it must be {what}", param=name)
    return checked(name, value, kind, what)


def take(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str, default: Any = None) -> Any:
    """A field that may be left out. Raises as `need`."""
    value = body.get(name)
    return default if value is None else checked(name, value, kind, what)


def checked(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """A value of a kind; true and false are no numbers. Raises as `need`."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        raise Refusal(f"{name} is {shown(value)}; it must be {what}", param=name)
    return value


def read_number(text: str, name: str, lowest: int, most: int) -> int:
    """A whole number of a query.

    Raises:
        Refusal: It is none, or out of range.
    """
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not digits or not lowest <= int(text) <= most:
        raise Refusal(f"{name} is {shown(text)}; it must be a whole number from {lowest} to {most}", param=name)
    return int(text)


def shown(value: Any) -> str:
    """A value as it is told, no longer than people read."""
    text = ""
    for piece in PIECES.iterencode(value[:MOST_SHOWN] if isinstance(value, str) else value):
        text += piece[: MOST_SHOWN + 1]
        if len(text) > MOST_SHOWN:
            break
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is left out."""
    return bool(take(body, name, bool, "true or false", default=False))


def read_options(body: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The options of a task for fields that have their names; null is the same as leaving one out.

    Raises:
        Refusal: A value is of a wrong kind, or out of its range.
    """
    options: dict[str, Any] = {}
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if name in READERS:
            value = READERS[name](value)
        check_option(name, value)
        options[name] = value
    return options


def check_option(name: str, value: Any, param: str = "") -> None:
    """Refuse a value that the kernel's client would refuse, by the caller's own name.

    Raises:
        Refusal: It would.
    """
    try:
        OPTIONS[name].check(param or name, value)
    except (TypeError, ValueError) as error:
        raise Refusal(str(error), param=param or name) from None


def read_grammar(body: Mapping[str, Any]) -> Grammar | None:
    """What the output must be, from `response_format` and from the extensions of others.

    Raises:
        Refusal: It is said twice, or not as it must be.
    """
    found = [
        grammar
        for name, read in GRAMMARS.items()
        if body.get(name) is not None and (grammar := read(name, body[name])) is not None
    ]
    if len(found) > 1:
        names = " and ".join(name for name in GRAMMARS if body.get(name) is not None)
        raise Refusal(f"{names} say both what the output must be; leave one out", param=names.split(" ")[0])
    return found[0] if found else None


def _format(name: str, value: Any) -> Grammar | None:
    checked(name, value, dict, 'an object, as {"type": "json_object"}')
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar(json_schema='{"type":"object"}')
    if kind == "json_schema":
        inner = value.get("json_schema", value)  # the second is how `text.format` of responses has it
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, (dict, bool)):
            raise Refusal(
                f"{name}.json_schema.schema is missing; it must be a JSON schema", param=f"{name}.json_schema.schema"
            )
        return Grammar(json_schema=dumps(schema))
    if kind == "grammar" and isinstance(value.get("grammar"), str):
        return Grammar(lark=value["grammar"])
    raise Refusal(f"{name}.type is {shown(kind)}; it must be text, json_object or json_schema", param=f"{name}.type")


def _structured(name: str, value: Any) -> Grammar | None:
    """As vLLM has it: one of several languages."""
    checked(name, value, dict, 'an object, as {"regex": "…"}')
    kinds = {"json": _schema, "regex": _regex, "choice": _choice, "grammar": _lark}
    said = {kind: each for kind, each in value.items() if each is not None}
    if len(said) != 1 or not said.keys() <= kinds.keys():
        raise Refusal(f"{name} has {sorted(said)}; it must have one of {sorted(kinds)}", param=name)
    kind, each = next(iter(said.items()))
    return kinds[kind](f"{name}.{kind}", each)


def _schema(name: str, value: Any) -> Grammar:
    checked(name, value, (dict, str, bool), "a JSON schema")
    return Grammar(json_schema=value if isinstance(value, str) else dumps(value))


def _regex(name: str, value: Any) -> Grammar:
    return Grammar(regex=checked(name, value, str, "a regular expression"))


def _choice(name: str, value: Any) -> Grammar:
    checked(name, value, list, "a list of texts")
    return Grammar(choice=Choice(texts=[checked(name, each, str, "a list of texts") for each in value]))


def _lark(name: str, value: Any) -> Grammar:
    return Grammar(lark=checked(name, value, str, "a grammar in the syntax of Lark"))


GRAMMARS: Final[Mapping[str, Callable[[str, Any], Grammar | None]]] = {
    "response_format": _format,
    "structured_outputs": _structured,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _lark,
}
"""What says what the output must be, and how it is read."""


def _stops(value: Any) -> Any:
    return ([value] if value else []) if isinstance(value, str) else value


def _top_k(value: Any) -> Any:
    return 0 if value == -1 else value  # as vLLM says that all tokens count


def _top_p(value: Any) -> Any:
    """0 is OpenAI's for the likeliest token alone, which counts in any case."""
    return LEAST_SHARE if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0 else value


def _biases(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return {int(token): bias for token, bias in value.items()}
    except ValueError:
        raise Refusal("logit_bias has a key that is no token id", param="logit_bias") from None


def _seed(value: Any) -> Any:
    return value & MOST_64 if isinstance(value, int) and not isinstance(value, bool) else value  # negative ones, too


READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "stop": _stops,
    "logit_bias": _biases,
    "seed": _seed,
    "top_k": _top_k,
    "top_p": _top_p,
}
"""How values are read that others write otherwise; the rest is taken as it is."""


def read_tier(body: Mapping[str, Any]) -> dict[str, Any]:
    """The class of a task: by `priority`, as the kernel has it, or by `service_tier`.

    Raises:
        Refusal: It is none.
    """
    if (said := body.get("priority")) is not None:
        check_option("priority", said)
        return {"priority": said}
    tier = take(body, "service_tier", str, f"one of {', '.join(TIERS)}")
    if tier is not None and tier not in TIERS:
        names = ", ".join(TIERS)
        raise Refusal(f"service_tier is {shown(tier)}; it must be one of {names}", param="service_tier")
    return {} if tier is None or TIERS[tier] is None else {"priority": TIERS[tier]}


def read_labels(body: Mapping[str, Any]) -> dict[str, Any]:
    """The marks of a task, from `metadata`.

    Raises:
        Refusal: They are no texts.
    """
    if (said := body.get("metadata")) is None:
        return {}
    check_option("labels", said, "metadata")
    if any(name.startswith(OWN_MARKS) for name in said):
        raise Refusal(f"names of metadata that begin with {OWN_MARKS} are the gateway's own", param="metadata")
    return {"labels": said}


def read_most(body: Mapping[str, Any], names: Collection[str], default: int | str) -> dict[str, Any]:
    """Most tokens to produce: by the first of `names` that is there. They are no more than there is room for.

    Raises:
        Refusal: It is none.
    """
    for name in names:
        if (said := body.get(name)) is not None:
            checked(name, said, int, "a whole number from 0 on")
            if said < 0:
                raise Refusal(f"{name} is {said}; it must be a whole number from 0 on", param=name)
            return _most(said)
    return _most(default)


def _most(tokens: int | str) -> dict[str, Any]:
    options: RunOptions = {"max_tokens": tokens, "fit_max_tokens": tokens != "all"}  # type: ignore[typeddict-item]
    return dict(options)
