"""One optimisation: what is asked for, the trials one after the other, and what is told of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inferd.core.ids import ModelName
from inferd.core.mixed_widths import MixedWidths
from inferd.core.model import Instance, ModelSpec
from inferd.core.optimization import (
    ORIGINAL,
    Knob,
    Measurement,
    OptimizationTarget,
    QualityBound,
    Search,
    SearchLimits,
    Settings,
    Trial,
    TrialState,
)
from inferd.core.plan import LoadPlan
from inferd.errors import (
    InferdError,
    LimitExceededError,
    ModelBusyError,
    NoMemoryError,
    PermissionDeniedError,
    QueueFullError,
    QuotaExceededError,
    ShuttingDownError,
    present,
)
from inferd.plugin.patience import patience
from inferd.runtime.driver import Driver
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.measuring import Bench, Reading, Workload, make_workload
from inferd.runtime.front.plans import shown
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.front.trials import GaveWayError, NoCoresError, NoRoomError, Trials
from inferd.runtime.front.versions import Other, otherwise
from inferd.runtime.plugins import Plugins
from inferd.runtime.trial_work import text_input

CHARACTERS_PER_TOKEN = 16  # of a text: so much of it is made tokens of, at most
LAST_PART = 0.2  # of the time, which is left to the trials at the end
ENDS_ALL = (LimitExceededError, PermissionDeniedError, QueueFullError, QuotaExceededError, ShuttingDownError)
"""What ends not only the trial that it comes up in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeLimits:
    """Bounds; see `inferd.config` for what each means."""

    search: SearchLimits
    most_s: float
    trial_s: float
    text_tokens: int
    draft_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        model: Name of the model.
        target: What is to become better.
        text: A text like those that it is used with.
        bound: What may be lost of quality.
        only: The settings that are varied; none for all.
        trials: Most of them; None for as many as there may be.
        in_flight: Tasks at once.
        prompt_tokens: Of the prompt of each.
        output_tokens: That each gives.
        seed: In which order values are tried.
        text_tokens: On how many tokens of the text quality is measured; None for as many as may be.
        most_weights_bytes: Weights of at most so many, by narrow layers beside wide ones; None for no such bound.
    """

    model: str
    target: OptimizationTarget
    text: str = field(repr=False)
    bound: QualityBound
    only: Sequence[str] = ()
    trials: int | None = None
    in_flight: int = 8
    prompt_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0
    text_tokens: int | None = None
    most_weights_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is going to be tried: `knobs`, in so many `trials` within `most_s`, each as the model `name`."""

    knobs: Sequence[Knob]
    trials: int
    most_s: float
    name: ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial as it stands.

    Attributes:
        trial: What it is.
        state: Where it stands.
        measured: What it has shown; of one that is rejected its quality.
        reason: Why it had no room or gave way.
        error: Why it failed.
    """

    trial: Trial
    state: TrialState
    measured: Measurement | None = None
    reason: str = ""
    error: InferdError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found: the `best` trial and the `original`, measured alike, of all `tried`."""

    target: OptimizationTarget
    best: Tried
    original: Tried
    tried: Sequence[Tried]
    text_tokens: int
    ended_early: str = ""

    @property
    def gain(self) -> float:
        """How much better the target is served."""
        best, original = present(self.best.measured), present(self.original.measured)
        return best.score(self.target) / original.score(self.target)


Told = Planned | Tried | Report
Tell = Callable[[Told], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Run:
    """One optimisation: trials one after the other. One writer: itself.

    Attributes:
        driver: Of the kernel, as the next three.
        plugins: Who may load models.
        tasks: By which trials are measured.
        limits: How far it goes.
        wanted: What is asked for.
        caller: Who asks.
        model: The model as it is.
        name: Of the trials.
        knobs: What is varied.
        widths: What says what is tried where weights are to be of at most so many bytes; None where `knobs` do.
        tell: Is given what there is to tell.
        sees: Of which models the caller may be told.
        workload: What trials are given; None until the first one is loaded.
        original: What the model as it is made of the text.
        tried: The trials that have ended.
    """

    driver: Driver
    plugins: Plugins
    tasks: Tasks
    limits: OptimizeLimits
    wanted: Wanted
    caller: Caller
    model: ModelSpec
    name: ModelName
    knobs: Sequence[Knob]
    widths: MixedWidths | None = None
    tell: Tell
    sees: Callable[[str], bool]
    workload: Workload | None = None
    original: Reading | None = None
    tried: list[Tried] = field(default_factory=list)

    async def go(self) -> None:
        """From the plan to the report."""
        limits, clock = self.limits, self.driver.clock
        search = self._make_search()
        await self.tell(Planned(knobs=self.knobs, trials=search.trials, most_s=limits.most_s, name=self.name))
        until, early = clock.now() + limits.most_s, ""
        while (trial := search.next()) is not None:
            left_s = until - clock.now()
            if left_s <= LAST_PART * limits.most_s:
                search.hurry()
                early = f"optimize.most_s is {limits.most_s:g} s: some settings were not tried"
            if left_s <= 0:
                early = f"optimize.most_s is {limits.most_s:g} s, and they were over before trial {trial.number}"
                break
            await self.tell(Tried(trial=trial, state=TrialState.RUNNING))
            tried = await self._try(trial, min(left_s, limits.trial_s))
            self.tried.append(tried)
            await self.tell(tried)
            if tried.state is TrialState.MEASURED:
                search.tell(trial, present(tried.measured))
            elif tried.state is TrialState.REJECTED:
                search.tell_rejected(trial, present(tried.measured))
        await Trials(self.driver).gone(self.name)
        await self.tell(self._report(search, early))

    def _make_search(self) -> Search | MixedWidths:
        if self.widths is not None:
            return self.widths
        limits = self.limits.search
        if self.wanted.trials is not None:
            limits = replace(limits, trials=self.wanted.trials)
        return Search(self.knobs, self.wanted.target, limits, self.wanted.seed)

    def _report(self, search: Search | MixedWidths, early: str) -> Report:
        best = search.best
        return Report(
            target=self.wanted.target,
            best=self._measured(best, final=search.has_finals),
            original=self._measured(ORIGINAL, final=search.has_finals),
            tried=self.tried,
            text_tokens=present(self.workload).text_tokens,
            ended_early=early or (search.shortfall if isinstance(search, MixedWidths) else ""),
        )

    def _measured(self, settings: Settings, *, final: bool) -> Tried:
        """The trial of these settings that counts."""
        found = [
            each
            for each in self.tried
            if each.trial.settings == settings and each.state is TrialState.MEASURED and each.trial.final == final
        ]
        return found[-1]

    async def _try(self, trial: Trial, limit_s: float) -> Tried:
        """Run a trial; what hinders the first one, of the model as it is, ends all."""
        first = trial.number == 1
        try:
            spec = await self._spec(dict(trial.settings))
            async with patience(limit_s):
                state, measured = await Trials(self.driver).run(
                    spec, self.caller.tenant, tell=self._reason, measure=lambda instance: self._measure(trial, instance)
                )
        except ENDS_ALL:
            raise
        except NoRoomError as why:
            if first:
                kind = ModelBusyError if isinstance(why, NoCoresError) else NoMemoryError
                raise kind(f"there is no room for a trial of model {self.model.name!r}: {why}") from None
            return Tried(trial=trial, state=TrialState.NO_ROOM, reason=str(why))
        except GaveWayError as why:
            if first:
                raise ModelBusyError(f"a trial of model {self.model.name!r} had to give way: {why}") from None
            return Tried(trial=trial, state=TrialState.GAVE_WAY, reason=str(why))
        except TimeoutError:
            error: InferdError = LimitExceededError(
                f"trial {trial.number} took longer than {limit_s:g} s: optimize.trial_s, or what optimize.most_s left",
                metadata={"bound": "optimize.trial_s", "limit": f"{limit_s:g}"},
            )
        except InferdError as failed:
            error = failed
        else:
            return Tried(trial=trial, state=state, measured=measured)
        if first:
            raise error
        return Tried(trial=trial, state=TrialState.FAILED, error=error)

    async def weigh(self, settings: Settings) -> int:
        """Bytes of the model's weights with other settings, as a plan of its load tells them.

        Raises:
            InferdError: It cannot be planned.
        """
        spec = await self._spec(dict(settings))
        plan = await self.driver.plan_load(replace(spec, name=self.model.name))  # a trial's name is not known yet
        return plan.need.weights_bytes

    async def _spec(self, settings: Mapping[str, str]) -> ModelSpec:
        """The model with other settings, as a trial that stays while it is measured."""
        words = {**otherwise(self.model, Other(settings=settings)), "name": self.name}
        placed = await self.plugins.place(roots=None, **words)  # it names no new file
        return replace(placed, min_instances=0, max_instances=1, queued_tasks=None, idle_s=0)

    def _reason(self, plan: LoadPlan) -> str:
        driver = self.driver
        return shown(plan, driver.views, self.caller, sees=self.sees).reason

    async def _measure(self, trial: Trial, instance: Instance) -> tuple[TrialState, Measurement]:
        if self.workload is None:
            self.workload = await self._make_workload(instance)
        bench = Bench(
            driver=self.driver,
            tasks=self.tasks,
            tenant=self.caller.tenant,
            name=self.name,
            workload=self.workload,
        )
        reading = await bench.read()
        if self.original is None:
            self.original = reading
        loss, agreement = reading.loss(self.original), reading.agreement(self.original)
        allowed = trial.settings == ORIGINAL or self.wanted.bound.allows(loss=loss, agreement=agreement)
        rounds = trial.rounds if allowed else 0
        measured = await bench.measure(reading, self.original, rounds=rounds)
        return (TrialState.MEASURED if allowed else TrialState.REJECTED), measured

    async def _make_workload(self, instance: Instance) -> Workload:
        """What trials are given, of the tokens that the model as it is makes of the text."""
        wanted = self.wanted
        most = self.limits.text_tokens if wanted.text_tokens is None else wanted.text_tokens
        text = text_input(wanted.text[: most * CHARACTERS_PER_TOKEN])
        answer = await self.driver.questions.query(self.name, text, tenant=self.caller.tenant)
        return make_workload(
            list(answer.token_ids)[:most],
            context_tokens=present(instance.facts).context_tokens,
            in_flight=wanted.in_flight,
            prompt_tokens=wanted.prompt_tokens,
            output_tokens=wanted.output_tokens,
        )
