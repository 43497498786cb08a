"""What a plugin gives, held against the interface: each error names the method, what it gave and what it must give."""

from dataclasses import fields
from operator import index
from typing import Any

from inferd.core.resources import MemoryNeed
from inferd.plugin.backend import Backend, LoadedModel, ModelDescription, Probe
from inferd.plugin.session import TokenLimits, TokenSession
from inferd.plugin.vocabulary import Vocabulary

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
    check_limits(session)
    model: LoadedModel = value
    return model


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
