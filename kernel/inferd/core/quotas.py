"""What tenants use of what quotas limit. A refusal costs a few comparisons, and changes nothing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from inferd.core.admission import RETRY_WHEN_FULL_S
from inferd.core.changes import QuotaUsed
from inferd.core.events import RestoreUses, SetQuotas, TaskUsed
from inferd.core.lease import LIVING, Lease, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.policy import matches, matches_model
from inferd.core.principal import ANY
from inferd.core.probe import PROBE_TENANT
from inferd.core.quota import Quota, QuotaUse
from inferd.core.window import Window
from inferd.errors import QuotaExceededError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from inferd.core.commands import Reply
    from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
    from inferd.core.restored import RestoredUse
    from inferd.core.task import Outcome, Task, TaskSpec

MINUTE_S, DAY_S = 60.0, 86_400.0
LEAST_DEVICE_S = 0.001  # that a task is taken to need
MOST_PAIRS = 10_000  # tenants and models for which is remembered which quotas are about them
UNITS = {
    "requests_per_minute": "tasks in a minute",
    "tokens_per_minute": "tokens in a minute",
    "tasks": "tasks that have not ended",
    "input_bytes": "bytes of inputs",
    "lease_bytes": "bytes of leased memory",
    "lease_sequences": "leased sequences",
    "device_seconds_per_day": "device seconds in a day",
}


@dataclass(slots=True)
class Book:
    """What one tenant uses of what one quota limits.

    Attributes:
        quota: It.
        tenant: The tenant.
        since: When it was begun; what was counted before is not in it.
    """

    quota: Quota
    tenant: Tenant
    since: float
    requests: Window = field(default_factory=lambda: Window(MINUTE_S))
    tokens: Window = field(default_factory=lambda: Window(MINUTE_S))
    device_s: Window = field(default_factory=lambda: Window(DAY_S))
    tasks: int = 0
    input_bytes: int = 0
    lease_bytes: int = 0
    lease_sequences: int = 0

    @property
    def holds(self) -> bool:
        """Whether anything that it counts still lives."""
        return bool(self.tasks or self.lease_bytes or self.lease_sequences)

    def charge_of(self, tokens: float) -> float:
        """What of so many expected tokens is charged first: no guess keeps a tenant out that uses nothing."""
        most = self.quota.tokens_per_minute
        return tokens if most is None else min(tokens, most)

    def settle(self, task: Task, used: float, now: float) -> None:
        """Count what a task that has ended used, in place of what was charged first."""
        charged = self.charge_of(task.estimated_tokens) if task.created >= self.since else 0.0
        if used > charged:
            self.tokens.add(used - charged, now)
        else:
            self.tokens.take_back(charged - used, task.created)

    def check_task(self, spec: TaskSpec, tokens: float, now: float) -> None:
        """Refuse a task; see `Quotas.check_task`."""
        asked = max(spec.demand.prompt_tokens, self.charge_of(ceil(tokens)))
        self._check_rate("requests_per_minute", self.requests, 1, now)
        self._check_rate("tokens_per_minute", self.tokens, asked, now)
        self._check_rate("device_seconds_per_day", self.device_s, LEAST_DEVICE_S, now)
        self.check_held("tasks", self.tasks, 1)
        self.check_held("input_bytes", self.input_bytes, spec.demand.memory_bytes)

    def _check_rate(self, name: str, window: Window, wanted: float, now: float) -> None:
        if (limit := getattr(self.quota, name)) is None:
            return
        window.pass_to(now)
        if window.used + wanted > limit:
            wait_s = window.wait_s(limit - wanted, now) if wanted <= limit else None
            then = "it never fits" if wait_s is None else f"try again in {wait_s:.3g} s"
            raise self._exceeded(name, window.used, wanted, limit, then, wait_s)

    def check_held(self, name: str, used: int, wanted: int) -> None:
        """Refuse what lives for as long as it does.

        Raises:
            QuotaExceededError: It would be too much.
        """
        limit = getattr(self.quota, name)
        if limit is not None and used + wanted > limit:
            fits = wanted <= limit
            then = "try again when some of it has ended" if fits else "it never fits"
            raise self._exceeded(name, used, wanted, limit, then, RETRY_WHEN_FULL_S if fits else None)

    def _exceeded(  # noqa: PLR0917 - the facts of a refusal
        self, name: str, used: float, wanted: float, limit: float, then: str, wait_s: float | None
    ) -> QuotaExceededError:
        quota = self.quota
        more = f", and this is {wanted:.12g} more" if wanted > LEAST_DEVICE_S else ""
        return QuotaExceededError(
            f"tenant {self.tenant!r} has {used:.12g} {UNITS[name]} of models {quota.models!r}{more}; its quota"
            f" {name} is {limit:.12g}: {then}",
            metadata={
                "quota": name,
                "value": f"{used:.12g}",
                "wanted": f"{wanted:.12g}",
                "limit": f"{limit:.12g}",
                "tenant": self.tenant,
                "models": quota.models,
                "quota_id": quota.quota_id,
            },
            retry_after_s=wait_s,
        )

    def use(self, now: float) -> QuotaUse:
        """What it says."""
        self.pass_to(now)
        return QuotaUse(
            quota=self.quota,
            tenant=self.tenant,
            requests_per_minute=round(self.requests.used),
            tokens_per_minute=round(self.tokens.used),
            tasks=self.tasks,
            input_bytes=self.input_bytes,
            lease_bytes=self.lease_bytes,
            lease_sequences=self.lease_sequences,
            device_seconds_per_day=round(self.device_s.used, 3),
        )

    def pass_to(self, now: float) -> bool:
        """Leave out what is over by now; whether anything is left."""
        for window in (self.requests, self.tokens, self.device_s):
            window.pass_to(now)
        return bool(self.holds or self.requests or self.tokens or self.device_s)


class Quotas:
    """All quotas, and a book for each tenant that uses what one of them limits. One writer: the kernel machine.

    Args:
        quotas: Those of the configuration.
        books: Most books that are kept of tenants that hold nothing now; those that were used last stay.
        out: Where is told what is to outlive the kernel.
    """

    def __init__(self, quotas: Iterable[Quota], *, books: int, out: list[Reply]) -> None:
        self._quotas = {quota.key: quota for quota in quotas}
        self._most = books
        self._out = out
        self._books: OrderedDict[tuple[str, Tenant], Book] = OrderedDict()
        self._about: dict[tuple[Tenant, ModelName | None], tuple[Quota, ...]] = {}
        self._moved: dict[tuple[str, Tenant], None] = {}  # device seconds have changed with this event

    # Refusals.

    def check_task(self, spec: TaskSpec, tokens: float, now: float) -> None:
        """Refuse a task that would exceed a quota.

        Args:
            spec: It.
            tokens: As many as it is expected to read and write.
            now: The time.

        Raises:
            QuotaExceededError: It would; says when there is room.
        """
        for quota in self._of(spec.tenant, spec.model):
            self._look(quota, spec.tenant, now).check_task(spec, tokens, now)

    def check_lease(self, spec: LeaseSpec, now: float) -> None:
        """Refuse a lease that would exceed a quota.

        Raises:
            QuotaExceededError: It would.
        """
        for quota, size_bytes, sequences in self._claimed(spec):
            book = self._look(quota, spec.tenant, now)
            if size_bytes:
                book.check_held("lease_bytes", book.lease_bytes, size_bytes)
            if sequences:
                book.check_held("lease_sequences", book.lease_sequences, sequences)

    # Tasks.

    def begin_task(self, task: Task, now: float) -> None:
        """A task was made, and is expected to read and write `task.estimated_tokens`."""
        for book in self._hold(task, now):
            book.requests.add(1, now)
            book.tokens.add(book.charge_of(task.estimated_tokens), now)

    def take_up(self, task: Task, now: float) -> None:
        """A task of a kernel before this one lives: what it holds is counted."""
        for _ in self._hold(task, now):
            pass

    def _hold(self, task: Task, now: float) -> Iterator[Book]:
        for book in self._books_of(task.spec.tenant, task.spec.model, now):
            book.tasks += 1
            book.input_bytes += task.spec.demand.memory_bytes
            yield book

    def use_device(self, spec: TaskSpec, seconds: float, now: float) -> None:
        """A task was computed for so long, with others or alone."""
        for book in self._books_of(spec.tenant, spec.model, now):
            if seconds and book.quota.device_seconds_per_day is not None:
                book.device_s.add(seconds, now)
                self._moved[book.quota.key, spec.tenant] = None

    def end_task(self, task: Task, outcome: Outcome, now: float) -> tuple[QuotaUse, ...]:
        """A task has ended: what it used is counted in place of what it was expected to; what its tenant uses then."""
        spec, usage = task.spec, outcome.usage
        used = float(usage.prompt_tokens + usage.output_tokens)
        told = []
        for book in self._books_of(spec.tenant, spec.model, now):
            book.tasks -= 1
            book.input_bytes -= spec.demand.memory_bytes
            if used or task.started is None:  # else nobody says yet what it was
                book.settle(task, used, now)
            told.append(book.use(now))
        return tuple(told)

    # Leases.

    def hold_lease(self, spec: LeaseSpec, now: float) -> None:
        """A lease was made; what it waits for counts as well, so that it can be given later."""
        self._add_lease(spec, 1, now)

    def end_lease(self, spec: LeaseSpec, now: float) -> None:
        """A lease has ended."""
        self._add_lease(spec, -1, now)

    def _add_lease(self, spec: LeaseSpec, sign: int, now: float, *, besides: Collection[str] = ()) -> None:
        """Count a lease, or take it back; `besides` are quotas that count it already."""
        for quota, size_bytes, sequences in self._claimed(spec):
            if quota.key not in besides:
                book = self._book(quota, spec.tenant, now)
                book.lease_bytes += sign * size_bytes
                book.lease_sequences += sign * sequences

    def _claimed(self, spec: LeaseSpec) -> list[tuple[Quota, int, int]]:
        """The quotas about what a lease claims, and of each how many bytes of memory and how many sequences."""
        found: dict[str, tuple[Quota, int, int]] = {}
        if memory_bytes := memory_of(spec):
            found = {quota.key: (quota, memory_bytes, 0) for quota in self._of(spec.tenant, None)}
        for claim in spec.claims:
            if isinstance(claim, ModelClaim) and claim.sequences:
                for quota in self._of(spec.tenant, claim.model):
                    _, size_bytes, sequences = found.get(quota.key, (quota, 0, 0))
                    found[quota.key] = quota, size_bytes, sequences + claim.sequences
        return list(found.values())

    # Quotas.

    def take(
        self,
        event: RestoreUses | SetQuotas | TaskUsed,
        tasks: Mapping[TaskId, Task],
        leases: Mapping[LeaseId, Lease],
        now: float,
    ) -> None:
        """What of all tasks and leases a quota is about may be another thing."""
        match event:
            case RestoreUses():
                self._restore(event.uses, now)
            case SetQuotas():
                self._set(event.quotas, tasks.values(), leases.values(), now)
            case TaskUsed() if (task := tasks.get(event.task_id)) is not None:
                for book in self._books_of(task.spec.tenant, task.spec.model, now):
                    book.settle(task, task.prompt_tokens + event.output_tokens, now)

    @property
    def all(self) -> tuple[Quota, ...]:
        """All of them."""
        return tuple(self._quotas.values())

    def uses(self, now: float) -> list[QuotaUse]:
        """What tenants use of what quotas limit, those that use anything."""
        for key, book in tuple(self._books.items()):
            if not book.pass_to(now):
                del self._books[key]
        return [book.use(now) for book in self._books.values()]

    def _set(self, quotas: Iterable[Quota], tasks: Iterable[Task], leases: Iterable[Lease], now: float) -> None:
        """These are the quotas from now on: what of all tasks and leases lives counts for new ones, too."""
        before, self._quotas = self._quotas, {quota.key: quota for quota in quotas}
        self._about.clear()
        stays = {key for key, quota in self._quotas.items() if before.get(key) == quota}
        for key, tenant in [key for key in self._books if key[0] not in stays]:
            if self._books.pop((key, tenant)).device_s:
                self._moved[key, tenant] = None
        for task in (task for task in tasks if task.finished is None):
            for book in self._books_of(task.spec.tenant, task.spec.model, now):
                if book.quota.key not in stays:
                    book.tasks += 1
                    book.input_bytes += task.spec.demand.memory_bytes
        for spec in (lease.spec for lease in leases if lease.state in LIVING):
            self._add_lease(spec, 1, now, besides=stays)

    def _restore(self, uses: Iterable[RestoredUse], now: float) -> None:
        """What was used of long windows by tenants of a kernel before this one."""
        for use in uses:
            quota = self._quotas.get(use.key)
            if quota is not None and quota.device_seconds_per_day is not None:
                self._book(quota, use.tenant, now).device_s.restore(use.slots, now)
            self._moved[use.key, use.tenant] = None

    def tell(self) -> None:
        """Tell what has changed with this event and is to outlive the kernel."""
        for key, tenant in self._moved:
            book = self._books.get((key, tenant))
            self._out.append(QuotaUsed(key, tenant, () if book is None else book.device_s.slots()))
        self._moved.clear()

    # Books.

    def _of(self, tenant: Tenant, model: ModelName | None) -> tuple[Quota, ...]:
        """The quotas about a tenant and a model; about none: those about all."""
        if not self._quotas or tenant == PROBE_TENANT:
            return ()
        if (found := self._about.get((tenant, model))) is None:
            if len(self._about) >= MOST_PAIRS:
                self._about.clear()
            found = self._about[tenant, model] = tuple(
                quota
                for quota in self._quotas.values()
                if matches(quota.tenants, tenant)
                and (quota.models == ANY if model is None else matches_model(quota.models, model))
            )
        return found

    def _books_of(self, tenant: Tenant, model: ModelName | None, now: float) -> list[Book]:
        return [self._book(quota, tenant, now) for quota in self._of(tenant, model)]

    def _look(self, quota: Quota, tenant: Tenant, now: float) -> Book:
        """A book to be read: of who uses nothing none is kept."""
        return self._books.get((quota.key, tenant)) or Book(quota, tenant, now)

    def _book(self, quota: Quota, tenant: Tenant, now: float) -> Book:
        if (book := self._books.get((quota.key, tenant))) is None:
            book = self._books[quota.key, tenant] = Book(quota, tenant, now)
            self._trim()
        self._books.move_to_end((quota.key, tenant))
        return book

    def _trim(self) -> None:
        """Forget what was not used for longest, of those who hold nothing."""
        for _ in range(len(self._books)):
            if len(self._books) <= self._most:
                return
            key, book = self._books.popitem(last=False)
            if book.holds:
                self._books[key] = book
            elif book.device_s:
                self._moved[key] = None


def memory_of(spec: LeaseSpec) -> int:
    """What a lease claims of devices' memory, in bytes."""
    return sum(claim.memory_bytes for claim in spec.claims if isinstance(claim, MemoryClaim))
