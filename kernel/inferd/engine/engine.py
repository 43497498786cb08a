"""What a worker asks of the engine that stands beside a session, whatever the session computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from inferd.core.vigil import Pulse


class Engine(Protocol):
    """Runs the tasks of one model. `run` belongs to the thread that loaded the session, all else comes from any."""

    def cancel(self, handle: int, *, again: bool = False) -> None:
        """Forget a task, which may be submitted `again`; one that has ended is none of ours any more."""

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Leave so much free for the tasks of a lease; a later hold of the lease replaces it, zeros give it back."""

    def stop(self) -> None:
        """Let `run` return; what was submitted is forgotten."""

    def run(self) -> None:
        """Compute until `stop`; sleeps while there is nothing to do."""

    def pulse(self) -> Pulse:
        """What is being done now, of all that is done at once what has lasted longest."""
        ...
