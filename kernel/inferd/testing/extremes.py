"""The largest value of each setting that is a fraction, for tests of what a kernel does there."""

import math
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from inferd.config import Settings


def most_of_each_float() -> dict[str, float]:
    """The bound of every setting that is a fraction, by its path: "limits.retention_s"; infinity where it has none."""
    return {path: _most(field) for path, field in _fields(Settings, "") if field.annotation is float}


def settings_at_their_most() -> dict[str, Any]:
    """Settings of a kernel, each fraction at its bound."""
    made: dict[str, Any] = {}
    for path, bound in most_of_each_float().items():
        *groups, name = path.split(".")
        place = made
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = bound
    return made


def _fields(owner: type[BaseModel], prefix: str) -> list[tuple[str, FieldInfo]]:
    found = []
    for name, field in owner.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _fields(inner, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", field))
    return found


def _most(field: FieldInfo) -> float:
    """The bound; the largest number below it where it is none itself."""
    for rule in field.metadata:
        if (most := getattr(rule, "le", None)) is not None:
            return float(most)
        if (beyond := getattr(rule, "lt", None)) is not None:
            return math.nextafter(float(beyond), 0.0)
    return math.inf
