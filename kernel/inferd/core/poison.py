"""Tasks that workers die of: remembered for a while, so that the next one like it is refused."""

from collections import OrderedDict

from inferd.core.ids import ModelName, Tenant
from inferd.core.task import TaskSpec
from inferd.errors import InferdError, PoisonError

MOST_REMEMBERED = 1000


class Poisons:
    """What workers died of. One writer: the kernel machine.

    Args:
        remember_s: How long a task like it is refused.
    """

    def __init__(self, remember_s: float) -> None:
        self._remember_s = remember_s
        self._until = OrderedDict[tuple[Tenant, ModelName, bytes], tuple[float, PoisonError]]()

    def check(self, spec: TaskSpec, now: float) -> None:
        """Refuse a task that is like one that workers died of.

        Raises:
            PoisonError: It is.
        """
        until, error = self._until.get((spec.tenant, spec.model, spec.demand.contents), (now, None))
        if error is not None and until > now:
            raise PoisonError(error.message, metadata=error.metadata, retry_after_s=until - now)

    def add(self, spec: TaskSpec, deaths: int, died: InferdError, now: float) -> PoisonError:
        """A worker died while it computed this task alone; the error that the task ends with."""
        cause = died.metadata.get("cause", died.message)
        error = PoisonError(
            f"{deaths} workers died while they ran this task, the last one while it ran nothing else: {cause}; another"
            f" one like it is refused for {self._remember_s:g} s",
            metadata={**died.metadata, "deaths": str(deaths)},
        )
        if spec.demand.contents:
            self._until[spec.tenant, spec.model, spec.demand.contents] = (now + self._remember_s, error)
            self._until.move_to_end((spec.tenant, spec.model, spec.demand.contents))
            if len(self._until) > MOST_REMEMBERED:
                self._until.popitem(last=False)
        return error

    def forget(self, model: ModelName) -> None:
        """A model is known no longer."""
        for key in [key for key in self._until if key[1] == model]:
            del self._until[key]
