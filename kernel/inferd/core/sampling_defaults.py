"""What a model's tasks take for sampling fields that they leave unset."""

from typing import Any


class SamplingDefaults:
    """Numbers by the names of `inferd.v1.SamplingDefaults`. The core carries them, `inferd.sampling` knows them.

    Of the same name, a client's field goes before what the model was created with, that before what its file says, that
    before what the catalogue says of the file, and that before `inferd.sampling.ENGINE_DEFAULTS`.

    Args:
        numbers: None is the same as leaving one out.
    """

    __slots__ = ("numbers",)

    def __init__(self, **numbers: float | None) -> None:
        self.numbers: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingDefaults) and self.numbers == other.numbers

    def __hash__(self) -> int:
        return hash(frozenset(self.numbers.items()))

    def __repr__(self) -> str:
        return f"SamplingDefaults({', '.join(f'{name}={value}' for name, value in self.numbers.items())})"

    def over(self, others: "SamplingDefaults") -> "SamplingDefaults":
        """This, and what only the others have."""
        return SamplingDefaults(**{**others.numbers, **self.numbers})


NO_DEFAULTS = SamplingDefaults()
"""Says nothing."""
