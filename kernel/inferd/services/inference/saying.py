"""What requests of the Open Inference Protocol say of how tokens are chosen, in vLLM's words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from inferd.errors import InvalidFieldError
from inferd.sampling import PARAMETERS, Form
from inferd.services.inference.datatypes import NotOfferedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd_api.inference import grpc_service_pb2 as gp
    from inferd_api.v1 import sampling_pb2 as sp

MOST_JSON: Final = 65_536
"""Characters of `sampling_parameters`."""
SHOWN: Final = 40
OWN: Final = frozenset({"echo", "prompt_logprobs", "grammar", "fit_max_tokens"})
"""Of `inferd.v1`, and not reached this way: nothing would tell of them."""
SAID_BY_NAME: Final = frozenset(PARAMETERS) - OWN
USUAL: Final[Mapping[str, Any]] = {
    "best_of": 1,
    "use_beam_search": False,
    "beam_width": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "detokenize": True,
}
"""What vLLM knows besides, and what it is here: other values are refused."""
KINDS: Final = frozenset({"structured_outputs", "guided_decoding"})
GRAMMARS: Final = ("json", "regex", "choice")


class Saying:
    """What is said of sampling, from several sides; each parameter at most once.

    Args:
        params: Where it is written.

    Attributes:
        places: Where each was said, by its name.
    """

    def __init__(self, params: sp.SamplingParams) -> None:
        self._params = params
        self.places: dict[str, str] = {}

    def take_json(self, text: str, path: str) -> None:
        """Take an object of JSON; numbers in it may be texts.

        Raises:
            InvalidFieldError: It is none, or has what is no parameter.
            NotOfferedError: It asks for what no kernel offers.
        """
        if len(text) > MOST_JSON:
            raise InvalidFieldError(f"{path} has {len(text)} characters of JSON; at most {MOST_JSON}", field=path)
        try:
            given = json.loads(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise InvalidFieldError(f"{path}, sampling_parameters, is no JSON: {error}"[:300], field=path) from None
        if not isinstance(given, dict):
            raise InvalidFieldError(
                f"{path}, sampling_parameters, is {type(given).__name__}; it must be an object", field=path
            )
        for name, value in given.items():
            if value is None:
                continue
            if name in KINDS:
                try:
                    self._take_grammar(name, value, path)
                except (ValueError, RecursionError):  # half of a pair of surrogates, or too deep to be written
                    raise InvalidFieldError(f"{path}: {name} is no text that can be sent on", field=path) from None
            elif name in USUAL:
                _check_usual(name, value, path)
            else:
                self.put(name, value, path)

    def put_parameter(self, name: str, value: gp.InferParameter) -> None:
        """Take a parameter of the request; as `put`."""
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            self.put(name, getattr(value, kind), "parameters")

    def put(self, name: str, value: Any, path: str) -> None:
        """Take one.

        Raises:
            InvalidFieldError: There is none of this name, it was said, or its value is none.
        """
        if name not in SAID_BY_NAME:
            raise InvalidFieldError(
                f"{path} has {name[:SHOWN]!r}, which says nothing of sampling; it may have"
                f" {', '.join(sorted(SAID_BY_NAME | set(USUAL)))}",
                field=path,
            )
        self._note(name, path)
        form = PARAMETERS[name].form
        try:
            if form in {Form.TEXTS, Form.TOKENS}:
                getattr(self._params, name).extend(_list(value, form))
            elif form is Form.BIASES:
                for token, bias in value.items():
                    self._params.logit_bias[int(token)] = float(bias)
            else:
                setattr(self._params, name, _single(name, value, form))
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise InvalidFieldError(
                f"{path}: {name} is {_shown(value)}; it must be {_wanted(name, form)}", field=path
            ) from None

    def _note(self, name: str, path: str) -> None:
        if (before := self.places.get(name)) is not None:
            raise InvalidFieldError(f"{name} is given twice, in {before} and in {path}; give it once", field=path)
        self.places[name] = path

    def _take_grammar(self, name: str, value: Any, path: str) -> None:
        kinds = {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else {}
        kind = next(iter(kinds), "")
        if len(kinds) != 1 or kind not in GRAMMARS:
            raise NotOfferedError(f"{path}: {name} must have one of {', '.join(GRAMMARS)}, and no other", field=path)
        self._note("grammar", path)
        given, grammar = kinds[kind], self._params.grammar
        if kind == "json":
            grammar.json_schema = given if isinstance(given, str) else json.dumps(given)
        elif kind == "regex" and isinstance(given, str):
            grammar.regex = given
        elif kind == "choice" and isinstance(given, list) and all(isinstance(each, str) for each in given):
            grammar.choice.texts.extend(given)
        else:
            raise InvalidFieldError(f"{path}: {name}.{kind} is {_shown(given)}, which is none", field=path)


def _check_usual(name: str, value: Any, path: str) -> None:
    usual = USUAL[name]
    said = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if isinstance(said, str) and not isinstance(usual, bool):
        try:
            said = float(said)
        except ValueError:
            said = None
    if said != usual:
        raise NotOfferedError(
            f"{path}: {name} is {_shown(value)}, which is not offered; give {usual}, or leave it out", field=path
        )


def _single(name: str, value: Any, form: Form) -> Any:
    """A number or a flag; texts of them are taken, too."""
    if form is Form.FLAG:
        if isinstance(value, str):
            value = {"true": True, "false": False}[value.lower()] if value.lower() in {"true", "false"} else value
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    if form is Form.NUMBER:
        return float(value)
    number = int(value) if not isinstance(value, float) else int(value) if value.is_integer() else None
    if number is None:
        raise ValueError
    return 0 if name == "top_k" and number == -1 else number  # vLLM's word for all


def _list(value: Any, form: Form) -> list[Any]:
    """Texts, of which empty ones say nothing, or ids of tokens."""
    given = [value] if isinstance(value, str) else list(value)
    if form is Form.TOKENS:
        return [int(each) for each in given]
    if not all(isinstance(each, str) for each in given):
        raise TypeError
    return [each for each in given if each]


def _wanted(name: str, form: Form) -> str:
    if form in {Form.NUMBER, Form.WHOLE}:
        parameter = PARAMETERS[name]
        return parameter.range if parameter.low is not None or parameter.high is not None else "a number"
    return {Form.FLAG: "true or false", Form.TEXTS: "a text or a list of texts"}.get(form, "a list of tokens")


def _shown(value: Any) -> str:
    try:
        said = repr(value)[: SHOWN + 1]
    except RecursionError:
        return "too deep"
    return said if len(said) <= SHOWN else said[:SHOWN] + "…"
