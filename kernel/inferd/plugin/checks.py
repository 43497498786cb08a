"""What a plugin gives, held against the interface: each error names the method, what it gave and what it must give."""

import importlib
from dataclasses import fields
from operator import index
from typing import Any

from inferd.core.resources import MemoryNeed
from inferd.errors import suggestion
from inferd.plugin.backend import Backend, LoadedModel, ModelDescription, Probe, one_of
from inferd.plugin.session import TokenLimits, TokenSession
from inferd.plugin.vocabulary import ALGORITHMS, TokenKind, Vocabulary
from inferd.sampling import NAMES

BACKEND_METHODS = ("probe", "measure", "load")
SESSION_METHODS = ("step", "copy_blocks", "close")


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


def check_model(value: Any) -> LoadedModel:
    """What `Backend.load` gave.

    Raises:
        TypeError: It is no `LoadedModel`, or a part of it is not what it must be.
    """
    if not isinstance(value, LoadedModel):
        _wrong("Backend.load", value, "a LoadedModel")
    for name, kind in (("vocabulary", Vocabulary), ("description", ModelDescription)):
        if not isinstance(getattr(value, name), kind):
            _wrong("Backend.load", getattr(value, name), f"a {kind.__name__}", field=f"LoadedModel.{name}")
    session = value.session
    lacking = [f"TokenSession.{name}" for name in SESSION_METHODS if not callable(getattr(session, name, None))]
    if lacking:
        raise TypeError(f"the session that Backend.load gave, {_kind(session)}, lacks {', '.join(lacking)}")
    if unknown := value.sampling.numbers.keys() - set(NAMES):
        raise TypeError(f"LoadedModel.sampling has {', '.join(sorted(unknown))}; it may have {', '.join(NAMES)}")
    check_vocabulary(value.vocabulary, check_limits(session))
    model: LoadedModel = value
    return model


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
