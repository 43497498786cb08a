"""How tokens are chosen: what the wire says of it, checked by the table of `inferd.sampling`."""

from collections.abc import Mapping, Sequence
from typing import Any

from inferd.core.sampling_defaults import SamplingDefaults
from inferd.errors import InvalidFieldError
from inferd.sampling import AT, PARAMETERS, Form, Parameter, check_lengths
from inferd.services.extents import MOST_CHOICES
from inferd_api.v1 import sampling_pb2 as pb

MOST_GRAMMAR = 65536  # characters


def check_sampling(s: pb.SamplingParams) -> Mapping[str, Any]:
    """What a client gave of how tokens are chosen, by name.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    given = {}
    for field, value in s.ListFields():
        parameter = PARAMETERS[field.name]
        given[field.name] = value
        match parameter.form:
            case Form.NUMBER | Form.WHOLE:
                _check_number(parameter, value, AT)
            case Form.TEXTS:
                _check_texts(parameter, value)
            case Form.BIASES:
                _check_biases(parameter, value)
            case Form.GRAMMAR:
                _check_grammar(value)
    check_lengths(given)
    _check_aim(given)
    return given


def read_sampling_defaults(defaults: pb.SamplingDefaults) -> SamplingDefaults:
    """What the tasks of a model take for what they leave unset.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    given = {field.name: value for field, value in defaults.ListFields()}
    for name, value in given.items():
        _check_number(PARAMETERS[name], value, "model.sampling_defaults.")
    return SamplingDefaults(**given)


def write_sampling_defaults(defaults: SamplingDefaults) -> pb.SamplingDefaults:
    """The same for the wire."""
    return pb.SamplingDefaults(**defaults.numbers)


def _check_number(parameter: Parameter, value: float, at: str) -> None:
    if expected := parameter.wrong(value):
        name = parameter.name
        raise InvalidFieldError(f"{name} is {value:g}; it must be {expected}", field=f"{at}{name}")


def _refuse(name: str, message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field=f"{AT}{name}")


def _check_texts(parameter: Parameter, texts: Sequence[str]) -> None:
    most = parameter.characters or 0
    for n, text in enumerate(texts):
        if not 1 <= len(text) <= most:
            message = f"{parameter.nouns.removesuffix('s')} {n} has {len(text)} characters; it must have 1 to {most}"
            raise _refuse(f"{parameter.name}[{n}]", message)


def _check_biases(parameter: Parameter, biases: Mapping[int, float]) -> None:
    for token_id, bias in biases.items():
        if expected := parameter.wrong(bias):
            name = parameter.name
            raise _refuse(name, f"{name} of token {token_id} is {bias:g}; it must be {expected}")


def _check_aim(given: Mapping[str, Any]) -> None:
    """Refuse mirostat with a grammar: what that allowed before a token is not known where a task goes on."""
    tau = given.get("mirostat_tau", 0)
    if tau and "grammar" in given:
        raise _refuse("mirostat_tau", f"mirostat_tau is {tau:g}; with a grammar it must be 0: leave one of them out")


def _check_grammar(grammar: pb.Grammar) -> None:
    name = grammar.WhichOneof("kind")
    if name is None:
        raise _refuse("grammar", "grammar is empty; set one of json_schema, regex, lark and choice")
    texts = grammar.choice.texts if name == "choice" else [getattr(grammar, name)]
    if not texts:
        raise _refuse("grammar.choice.texts", f"choice has 0 texts; it must have 1 to {MOST_CHOICES}")
    size = max(map(len, texts))
    if size > MOST_GRAMMAR:
        raise _refuse(f"grammar.{name}", f"{name} has {size} characters; at most {MOST_GRAMMAR}")
