"""A request that the engine has taken in: what is computed of it, and with which others it can be computed as one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from inferd.plugin.tensor import ElementType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.engine.tensor.request import Request, SequenceStep
    from inferd.plugin import Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One writer: the loop, under its lock.

    Attributes:
        request: What was asked.
        wanted: The outputs that are told.
        asked: The outputs that the session is asked for: those, and the states of its sequence.
        arrived: When it came, on the loop's clock.
        inputs: What the session is given; with the states of its sequence, once it is its turn there.
        ready: Whether all of `inputs` is there.
        skipped: Sets of outputs that were left out since they had been told before.
        passed: Sets of outputs that were told.
        passed_over: Batches that were taken while it could have been.
        dropped: Nobody waits for it any more.
        key: Equal for requests that can be computed as one, once it is ready: same names, types, outputs, and sizes
            but the first and those that may be filled up. Written by the board, as `sizes`.
        sizes: Its own sizes that may be filled up, by rule; empty where it follows none.
    """

    request: Request
    wanted: tuple[str, ...]
    asked: tuple[str, ...]
    arrived: float
    inputs: dict[str, Tensor] = field(default_factory=dict)
    ready: bool = False
    skipped: int = 0
    passed: int = 0
    passed_over: int = 0
    dropped: bool = False
    key: tuple[Any, ...] | None = None
    sizes: tuple[int, ...] = ()

    @property
    def handle(self) -> int:
        """Of its task."""
        return self.request.handle

    @property
    def rows(self) -> int:
        """The first dimension of its inputs, where the model batches; 0 where it has none."""
        return next((tensor.shape[0] for tensor in self.request.inputs.values() if tensor.shape), 0)

    def prepare(self) -> None:
        """Make what the model is given, of a request that waited with that."""
        if self.request.prepare is not None:
            self.inputs = dict(self.request.prepare())

    def shown(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is told of the model's outputs."""
        wanted = {name: outputs[name] for name in self.wanted}
        return wanted if self.request.finish is None else self.request.finish(self.inputs, wanted)

    def pass_on(self) -> bool:
        """Whether the next set of outputs is to be told, or was told before."""
        if self.skipped < self.request.told:
            self.skipped += 1
            return False
        self.passed += 1
        return True

    def anew(self) -> Entry:
        """The same, as if nothing had been computed of it; what it has told is left out."""
        request = replace(self.request, told=max(self.request.told, self.skipped + self.passed))
        inputs = dict(request.inputs)
        return Entry(request=request, wanted=self.wanted, asked=self.asked, arrived=self.arrived, inputs=inputs)


@runtime_checkable
class CorrelatingSession(Protocol):
    """A session that keeps states itself, by an input that tells it the sequence of a request."""

    def correlated(self, inputs: Mapping[str, Tensor], sequence: SequenceStep | None) -> Mapping[str, Tensor]:
        """The inputs of a request with that input as it must be, whatever the client says there."""


def named(request: Request, session: object) -> Request:
    """A request of which the session is told the sequence, where it keeps states itself."""
    if not isinstance(session, CorrelatingSession):
        return request
    return replace(request, inputs=session.correlated(request.inputs, request.sequence))


def can_join(entry: Entry) -> bool:
    """Whether its inputs can be put behind those of others: whole bytes, of as many rows each, and at least one."""
    rows = entry.rows
    each = entry.inputs.values()  # states, too: else one would be given rows of another
    return rows > 0 and all(t.array.shape == t.shape and t.shape[:1] == (rows,) for t in each)


def told_bytes(tensor: Tensor) -> int:
    """What a tensor takes when it is told."""
    if tensor.element_type is ElementType.STRING:
        return sum(len(str(text).encode()) + 4 for text in tensor.array.flat)
    return tensor.array.nbytes
