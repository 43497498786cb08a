"""What tasks of a model cost, learned from those that ended."""

from collections import OrderedDict
from dataclasses import dataclass

from inferd.core.ids import Tenant

LEAST_WEIGHT = 0.1  # of the latest measurement: about the last ten count
UNKNOWN_TOKENS = 256.0  # expected of a task's output before any ended


@dataclass(slots=True)
class _Mean:
    """An exponentially weighted mean; plain over its first measurements, so that the first does not count too much."""

    value: float = 0.0
    count: int = 0

    def add(self, measured: float) -> None:
        self.count += 1
        self.value += (measured - self.value) * max(1 / self.count, LEAST_WEIGHT)


class ServiceTimes:
    """How long a task of a model runs, and how many tokens it puts out. One writer: the kernel machine.

    Args:
        tenants: So many tenants are told apart; of the one that was idle longest the output is then forgotten.
    """

    def __init__(self, *, tenants: int = 1000) -> None:
        self._tenants = tenants
        self._run_s = _Mean()
        self._output_tokens = _Mean()
        self._output_tokens_of: OrderedDict[Tenant, _Mean] = OrderedDict()

    def observe(self, tenant: Tenant, *, run_s: float, output_tokens: int) -> None:
        """A task ended by itself: it ran for `run_s` seconds and put out so many tokens."""
        self._run_s.add(run_s)
        self._output_tokens.add(output_tokens)
        self._output_tokens_of.setdefault(tenant, _Mean()).add(output_tokens)
        self._output_tokens_of.move_to_end(tenant)
        if len(self._output_tokens_of) > self._tenants:
            self._output_tokens_of.popitem(last=False)

    def output_tokens(self, tenant: Tenant, most: int | None) -> float:
        """Tokens that a task is expected to put out: as the tenant's before, or as all before; at most `most`."""
        mean = self._output_tokens_of.get(tenant, self._output_tokens)
        expected = mean.value if mean.count else UNKNOWN_TOKENS
        return expected if most is None else min(expected, most)

    def eta_s(self, position: int, places: int) -> float | None:
        """Seconds until a task starts that waits behind `position` others for one of `places` that are all taken.

        Returns:
            None while nothing was measured, or while there is no place.
        """
        if not self._run_s.count or places < 1:
            return None
        return (position + 1) * self._run_s.value / places
