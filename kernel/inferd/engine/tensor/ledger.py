"""How many sequences there are and what their states take: of all and of each tenant, held against the bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.errors import LimitExceededError
from inferd.plugin.tensor import ElementType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.core.ids import Tenant
    from inferd.engine.tensor.request import TensorLimits
    from inferd.plugin import Tensor

    Key = tuple[Tenant, str]


@dataclass(slots=True)
class Ledger:
    """One writer: the sequences of an instance. Those that begin are in it from when their first request is computed.

    Args:
        limits: The bounds.
    """

    limits: TensorLimits
    _sizes: dict[Key, int] = field(default_factory=dict)  # bytes
    _tenants: dict[Tenant, set[Key]] = field(default_factory=dict)
    _total: int = 0

    def check_one(self, size: int) -> None:
        """Refuse a state that is too large for one sequence.

        Raises:
            LimitExceededError: It is.
        """
        most = self.limits.sequence_bytes
        if size > most:
            raise _beyond(
                f"the state of the sequence has {size} bytes and workers.sequence_bytes is {most}; send fewer rows, or"
                " raise it",
                "workers.sequence_bytes",
                size,
                most,
            )

    def put(self, key: Key, size: int, *, force: bool = False) -> None:
        """A sequence has so many bytes from now on; one that is not known begins. By `force` whatever the bounds say.

        Raises:
            LimitExceededError: A bound is in the way; nothing has changed.
        """
        own, tenant = self._tenants.get(key[0], set()), f"tenant {key[0][:80]!r}"
        if not force:
            if key not in self._sizes:
                self._check_count(own, tenant)
            self._check_bytes(key, size, own, tenant)
        self.drop(key)
        self._sizes[key] = size
        self._total += size
        self._tenants.setdefault(key[0], set()).add(key)

    def drop(self, key: Key) -> None:
        """A sequence is gone; one that is not known is none."""
        if key not in self._sizes:
            return
        self._total -= self._sizes.pop(key)
        own = self._tenants[key[0]]
        own.discard(key)
        if not own:
            del self._tenants[key[0]]

    def _check_count(self, own: set[Key], tenant: str) -> None:
        end = f"end some, or wait until some have been idle for {self.limits.sequence_idle_s:g} s"
        for whose, bound, have, most in (
            ("are kept", "workers.sequences", len(self._sizes), self.limits.sequences),
            (f"of {tenant} are kept", "workers.sequences_per_tenant", len(own), self.limits.tenant_sequences),
        ):
            if have >= most:
                raise _beyond(f"{have} sequences {whose} and {bound} is {most}; {end}", bound, have, most)

    def _check_bytes(self, key: Key, size: int, own: set[Key], tenant: str) -> None:
        self.check_one(size)
        most, before, bound = self.limits.all_sequences_bytes, self._sizes.get(key, 0), "workers.all_sequences_bytes"
        share = most * self.limits.tenant_sequences // self.limits.sequences
        for whose, more, have, limit in (
            ("sequences", f"{bound} is {most}", self._total, most),
            (f"sequences of {tenant}", f"its part of {bound} is {share}", self._held(own), share),
        ):
            if size > before and have - before + size > limit:
                raise _beyond(
                    f"the states of all {whose} would have {have - before + size} bytes and {more}; end some, or raise"
                    " it",
                    bound,
                    have - before + size,
                    limit,
                )

    def _held(self, keys: Iterable[Key]) -> int:
        return sum(self._sizes[key] for key in keys)


def _beyond(message: str, bound: str, value: int, limit: int) -> LimitExceededError:
    return LimitExceededError(message, metadata={"bound": bound, "value": str(value), "limit": str(limit)})


def kept_bytes(tensor: Tensor) -> int:
    """What a tensor takes while it is kept."""
    texts = tensor.array.flat if tensor.element_type is ElementType.STRING else ()
    return tensor.array.nbytes + sum(len(str(text)) for text in texts)
