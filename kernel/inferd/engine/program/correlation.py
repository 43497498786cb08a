"""The id by which a program knows a sequence: no two tenants have the same one, whatever their clients call theirs."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.core.ids import DEFAULT_TENANT
from inferd.engine.program.types import NAMES
from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd.plugin import ElementType, Tensor
from inferd.plugin.tensor import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.engine.tensor.request import SequenceStep

CORRID: Final = "CONTROL_SEQUENCE_CORRID"
SECRET: Final = secrets.token_bytes(32)
"""Of this worker, in which all states of the program are, too: nobody can choose an id that is another's."""
WIDE_BYTES: Final = 8
"""Of ids that are made: with fewer, two of them were the same by chance."""


class Correlation:
    """Tells a program the id of a sequence.

    That of the default tenant is what its client says, as in Triton; every other one is made of tenant and name.

    Args:
        config: Of the program, completed.
        model: Its name, for errors.

    Attributes:
        name: The input that tells the id; "" where none does.
    """

    def __init__(self, config: Mapping[str, Any], model: str) -> None:
        self._model = model
        self.name, self._kind = "", ElementType.UINT64
        self._sequences = "sequence_batching" in config
        for each in config.get("sequence_batching", {}).get("control_input", ()):
            (control,) = each["control"]
            if control.get("kind") == CORRID:
                said = control["data_type"]
                self.name, self._kind = each["name"], next(kind for kind, name in NAMES.items() if name == said)

    def tell(self, inputs: Mapping[str, Tensor], sequence: SequenceStep | None) -> Mapping[str, Tensor]:
        """The inputs with the id of their sequence in the place of what is said there.

        Raises:
            InvalidFieldError: They are of no sequence.
            UnsupportedInputError: An id of so few bits could be that of another tenant's sequence.
        """
        if not self._sequences:
            return inputs
        if sequence is None:
            raise InvalidFieldError(
                f"a request to model {self._model!r} must name its sequence, by whose id the program keeps its states",
                field="spec.infer.sequence",
            )
        if not self.name:
            return inputs
        shape = inputs[self.name].shape
        array = np.empty(shape, NUMPY[self._kind])
        array[...] = self._id(sequence)
        return {**inputs, self.name: Tensor(element_type=self._kind, shape=shape, array=array)}

    def _id(self, sequence: SequenceStep) -> int | str:
        is_own = sequence.tenant == DEFAULT_TENANT
        if self._kind is ElementType.STRING:
            return sequence.name if is_own else self._made(sequence).hex()
        bounds = np.iinfo(NUMPY[self._kind])
        if is_own and (number := _number(sequence.name)) is not None and bounds.min <= number <= bounds.max:
            return number
        if bounds.bits < WIDE_BYTES * 8:
            raise UnsupportedInputError(
                f"input {self.name!r} of model {self._model!r} tells the id of a sequence in {bounds.bits} bits, too"
                f" few to keep those of tenant {sequence.tenant!r} apart from all others: have its control be"
                " TYPE_UINT64 or TYPE_STRING in config.pbtxt",
                field="spec.infer.sequence",
            )
        return int.from_bytes(self._made(sequence)[:WIDE_BYTES]) & int(bounds.max)

    @staticmethod
    def _made(sequence: SequenceStep) -> bytes:
        said = f"{sequence.tenant}\0{sequence.name}".encode("utf-8", "surrogatepass")
        return blake2b(said, key=SECRET, digest_size=2 * WIDE_BYTES).digest()


def _number(name: str) -> int | None:
    """The number that a name says, as no other name says it; None where it says none."""
    most = 20  # digits of 64 bits
    number = int(name) if len(name) <= most and name.removeprefix("-").isdecimal() and name.isascii() else None
    return number if str(number) == name else None
