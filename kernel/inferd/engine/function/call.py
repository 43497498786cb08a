"""A call on its way through the engine, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.engine.leash import Leash

if TYPE_CHECKING:
    from inferd.engine.token.output import Ended
    from inferd.shared import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A task on its way in.

    Attributes:
        handle: Names it; rises with each task.
        name: Of the function.
        version: Of that; 0 for the highest.
        given: Its input, as JSON.
        each: Whether that is an array of inputs.
        priority: Its class: of those that wait the highest comes first, and in it the oldest.
        lease_id: The lease that it runs under; "" for none.
        fencing_token: Of the lease's grant.
        told: Pieces that it has told before, elsewhere: so many are left out.
        alone: Run it with nothing else beside it: workers have died while it ran.
        data: What it is given beside its input, in memories.
        leash: On which its process is.
        replies: What has come of what it asks models, as JSON, by number; the loop's.
    """

    handle: int
    name: str
    version: int = 0
    given: bytes = b""
    each: bool = False
    priority: int = 0
    lease_id: str = ""
    fencing_token: int = 0
    told: int = 0
    alone: bool = False
    data: tuple[Part, ...] = ()
    leash: Leash = field(default_factory=Leash)
    replies: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class CallResult:
    """What calls have given.

    Attributes:
        pieces: As JSON, each with the handle of its task.
        ended: Tasks that ended; their last pieces are above.
        alone: The task that runs alone from now on; None for none.
        seconds: How long it ran that ended.
        asks: What calls ask of models, as JSON, each with the handle of its task and its number.
        progress: How far calls are, by the handles of their tasks.
    """

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    alone: int | None = None
    seconds: float = 0.0
    asks: list[tuple[int, int, bytes]] = field(default_factory=list)
    progress: dict[int, float] = field(default_factory=dict)
