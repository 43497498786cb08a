"""How large a model must be for what is asked of it, said plainly where it is too small."""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 1_000_000
BILLION = 1000 * MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one function.

    Attributes:
        parameters: Of a model that can do it.
        why: What smaller ones do.
    """

    parameters: int
    why: str


def needs_for(needs: Needs, model: str, parameters: int) -> str:
    """What is said of a model that is too small; "" for one that is not, or whose size is not known."""
    if not 0 < parameters < needs.parameters:
        return ""
    return (
        f"model {model!r} has {size(parameters)} parameters, and this needs about {size(needs.parameters)}: {needs.why}"
    )


def size(parameters: int) -> str:
    """A number of parameters, for people."""
    if parameters >= BILLION:
        return f"{parameters / BILLION:g} billion"
    return f"{round(parameters / MILLION)} million"
