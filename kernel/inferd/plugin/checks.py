"""What a plugin gives, held against the interface: each error names the method, what it gave and what it must give."""

import importlib
from collections.abc import Sequence
from dataclasses import fields
from operator import index
from typing import Any

from inferd.core.resources import MemoryNeed
from inferd.errors import suggestion
from inferd.plugin.backend import Backend, LoadedModel, LoadedTensorModel, ModelDescription, Probe, one_of
from inferd.plugin.batch_checks import check_batching
from inferd.plugin.recipe import Recipe
from inferd.plugin.session import TokenLimits, TokenSession
from inferd.plugin.tensor import Signature
from inferd.plugin.vocabulary import ALGORITHMS, TokenKind, Vocabulary
from inferd.sampling import NAMES

BACKEND_METHODS = ("probe", "measure", "load")
SESSION_METHODS = ("step", "copy_blocks", "close")
SOURCED_METHODS = ("read", "forget")
TENSOR_SESSION_METHODS = ("predict", "close")


def check_backend(value: Any, loader: str) -> Backend:
    """The backend that a loader made.

    Raises:
        TypeError: It lacks a method.
    """
    lacking = [f"Backend.{name}" for name in BACKEND_METHODS if not callable(getattr(value, name, None))]
    if lacking:
        raise TypeError(f"{loader} lacks {', '.join(lacking)}; it must have {', '.join(BACKEND_METHODS)}")
    backend: Backend = value
    return backend


def check_probe(value: Any) -> Probe:
    """What `Backend.probe` gave.

    Raises:
        TypeError: It is no `Probe`.
    """
    return value if isinstance(value, Probe) else _wrong("Backend.probe", value, "a Probe")


def check_need(value: Any) -> MemoryNeed:
    """What `Backend.measure` gave.

    Raises:
        TypeError, ValueError: It is no `MemoryNeed` of whole numbers of bytes.
    """
    if not isinstance(value, MemoryNeed):
        _wrong("Backend.measure", value, "a MemoryNeed")
    return MemoryNeed(**{field.name: _bytes(field.name, getattr(value, field.name)) for field in fields(MemoryNeed)})


def _bytes(name: str, value: Any) -> int:
    try:
        number = index(value)  # numbers of numpy are welcome
    except TypeError:
        raise TypeError(f"Backend.measure gave {name}={value!r}; it must be a whole number of bytes") from None
    if number < 0:
        raise ValueError(f"Backend.measure gave {name}={number}; it must be at least 0")
    return number


def check_model(value: Any) -> LoadedModel | LoadedTensorModel:
    """What `Backend.load` gave.

    Raises:
        TypeError, ValueError: It is neither kind of model, or a part of it is not what it must be.
    """
    return check_tensor_model(value) if isinstance(value, LoadedTensorModel) else check_language_model(value)


def check_language_model(value: Any) -> LoadedModel:
    """What `Backend.load` gave for a language model.

    Raises:
        TypeError, ValueError: It is no `LoadedModel`, or a part of it is not what it must be.
    """
    if not isinstance(value, LoadedModel):
        _wrong("Backend.load", value, "a LoadedModel or a LoadedTensorModel")
    for name, kind in (("vocabulary", Vocabulary), ("description", ModelDescription)):
        if not isinstance(getattr(value, name), kind):
            _wrong("Backend.load", getattr(value, name), f"a {kind.__name__}", field=f"LoadedModel.{name}")
    session = value.session
    _check_methods(session, "TokenSession", SESSION_METHODS)
    if value.recipe is not None:
        if not isinstance(value.recipe, Recipe):
            _wrong("Backend.load", value.recipe, "a Recipe or None", field="LoadedModel.recipe")
        _check_methods(session, "SourcedSession", SOURCED_METHODS)
    if value.draft is not None:
        _check_methods(value.draft, "TokenSession", SESSION_METHODS)
    if unknown := value.sampling.numbers.keys() - set(NAMES):
        raise TypeError(f"LoadedModel.sampling has {', '.join(sorted(unknown))}; it may have {', '.join(NAMES)}")
    check_vocabulary(value.vocabulary, check_limits(session))
    model: LoadedModel = value
    return model


def check_tensor_model(value: Any) -> LoadedTensorModel:
    """What `Backend.load` gave for a model of tensors.

    Raises:
        TypeError, ValueError: It is no `LoadedTensorModel`, or a part of it is not what it must be.
    """
    if not isinstance(value, LoadedTensorModel):
        _wrong("Backend.load", value, "a LoadedTensorModel")
    if not isinstance(value.description, ModelDescription):
        _wrong("Backend.load", value.description, "a ModelDescription", field="LoadedTensorModel.description")
    if value.recipe is not None and not isinstance(value.recipe, Recipe):
        _wrong("Backend.load", value.recipe, "a Recipe or None", field="LoadedTensorModel.recipe")
    _check_methods(value.session, "TensorSession", TENSOR_SESSION_METHODS)
    signature: Any = getattr(value.session, "signature", None)
    if not isinstance(signature, Signature):
        _wrong("TensorSession.signature", signature, "a Signature")
    check_signature(signature)
    model: LoadedTensorModel = value
    return model


def _check_methods(session: Any, kind: str, methods: Sequence[str]) -> None:
    lacking = [f"{kind}.{name}" for name in methods if not callable(getattr(session, name, None))]
    if lacking:
        raise TypeError(f"the session that Backend.load gave, {_kind(session)}, lacks {', '.join(lacking)}")


def check_signature(signature: Signature) -> None:
    """What a session says of itself.

    Raises:
        ValueError: It contradicts itself; the message names the field and both numbers.
    """
    for field in ("inputs", "outputs"):
        names = [info.name for info in getattr(signature, field)]
        if twice := {name for name in names if names.count(name) > 1 or not name}:
            raise ValueError(
                f"Signature.{field} names {min(twice)!r} twice or is empty; each must have a name of its own"
            )
    for field in ("most_batch", "threads"):
        if (value := getattr(signature, field)) < 1:
            raise ValueError(f"Signature.{field} is {value}; it must be at least 1")
    inputs, outputs = ({i.name: i for i in infos} for infos in (signature.inputs, signature.outputs))
    for state in signature.states:
        if state.input_name not in inputs or state.output_name not in outputs:
            raise ValueError(
                f"Signature.states goes from output {state.output_name!r} to input {state.input_name!r}; "
                f"there are outputs {', '.join(outputs)} and inputs {', '.join(inputs)}"
            )
        kinds = inputs[state.input_name].element_type, outputs[state.output_name].element_type
        if kinds[0] is not kinds[1]:
            raise ValueError(
                f"Signature.states goes from {kinds[1].name} to {kinds[0].name}; they must be the same type"
            )
    check_batching(signature)


def check_vocabulary(vocabulary: Vocabulary, limits: TokenLimits) -> None:
    """What a loaded model has for tokens.

    Raises:
        ValueError: It contradicts itself or the limits; the message names the fields and both numbers.
    """
    algorithm, size = vocabulary.algorithm, limits.vocabulary_size
    if algorithm not in ALGORITHMS:
        wanted = one_of([repr(name) for name in ALGORITHMS])
        raise ValueError(f"Vocabulary.algorithm is {algorithm!r}; it must be {wanted}")
    if algorithm == "json":
        if not vocabulary.definition:
            raise ValueError("Vocabulary.definition is empty; with the algorithm 'json' it must be a tokenizer.json")
    else:
        _check_counts(vocabulary, size)
    named = [("eos_ids", number) for number in vocabulary.eos_ids]
    named += [("bos_id", vocabulary.bos_id)] if vocabulary.bos_id is not None else []
    for field, number in named:
        if not 0 <= number < size:
            raise ValueError(f"Vocabulary.{field} names token {number}; TokenLimits.vocabulary_size is {size}")


def _check_counts(vocabulary: Vocabulary, size: int) -> None:
    count = len(vocabulary.tokens)
    for field in ("kinds", "scores") if vocabulary.algorithm == "spm" else ("kinds",):
        if (given := len(getattr(vocabulary, field))) != count:
            raise ValueError(f"Vocabulary has {count} tokens and {given} {field}; there must be one for each token")
    if wrong := set(vocabulary.kinds) - set(TokenKind):
        last = max(TokenKind)
        raise ValueError(f"Vocabulary.kinds has {min(wrong)}; each must be a TokenKind, from 0 to {int(last)}")
    if count != size:
        raise ValueError(
            f"Vocabulary has {count} tokens and TokenLimits.vocabulary_size is {size}: there must be a token for each "
            "logit; those that are not used have the kind UNUSED"
        )


def import_loader(loader: str) -> Any:
    """What the path "package.module:Class" of a `BackendSpec` names.

    Raises:
        ImportError: There is no such name in the module; the message has its file and the nearest name.
        Exception: Whatever importing the module raises.
    """
    path, _, name = loader.partition(":")
    module = importlib.import_module(path)
    if not hasattr(module, name):
        near = suggestion(name, [known for known in vars(module) if not known.startswith("_")])
        hint = f"; did you mean {near!r}?" if near else ""
        raise ImportError(f"BackendSpec.loader is {loader!r}, but {module.__file__} has no {name!r}{hint}")
    return getattr(module, name)


def check_limits(session: TokenSession) -> TokenLimits:
    """What `TokenSession.limits` gives.

    Raises:
        TypeError: It is no `TokenLimits`.
    """
    limits: Any = getattr(session, "limits", None)
    return limits if isinstance(limits, TokenLimits) else _wrong("TokenSession.limits", limits, "TokenLimits")


def _wrong(method: str, value: Any, wanted: str, *, field: str = "") -> Any:
    what = f"{_kind(value)} as {field}" if field else _kind(value)
    raise TypeError(f"{method} gave {what}; it must give {wanted}")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
