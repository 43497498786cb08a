"""Finding settings of a model that serve a target better on this host, within a bound on quality."""

from collections.abc import Callable

from inferd.config import Settings
from inferd.core.ids import NO_LEASE, ModelName
from inferd.core.mixed_widths import WIDE_LAYERS, name_parts
from inferd.core.model import ModelSpec
from inferd.core.optimization import VARIETIES, Knob, SearchLimits, find_knobs
from inferd.errors import InvalidFieldError, ModelBusyError
from inferd.plugin import BackendSpec
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import Bound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.measuring import LEAST_TEXT_TOKENS
from inferd.runtime.front.mixed_widths import check_widths, plan_widths
from inferd.runtime.front.optimization import OptimizeLimits, Run, Tell, Wanted
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.plugins import Plugins
from inferd.runtime.shelf import Shelf

TRIAL = ":trial"
NAME_CHARACTERS = 110  # of the model's name that are in that of its trials
LEAST_TRIALS = 2
NAMES = 16  # that are tried for a trial


class Optimizing:
    """Has settings of models tried, one after the other.

    Args:
        driver: Of the kernel.
        plugins: Who may load models.
        shelf: Where models are that were pulled.
        tasks: By which trials are measured.
        settings: Of the kernel.
    """

    def __init__(self, driver: Driver, plugins: Plugins, shelf: Shelf, tasks: Tasks, settings: Settings) -> None:
        limits = settings.optimize
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf
        self._tasks = tasks
        self._limits = OptimizeLimits(
            search=SearchLimits(trials=limits.trials, finalists=limits.finalists, final_rounds=limits.final_rounds),
            most_s=limits.most_s,
            trial_s=limits.trial_s,
            text_tokens=limits.text_tokens,
            draft_tokens=settings.workers.draft_tokens,
        )
        self._open_runs = Bound("optimize.at_once", limits.at_once, "models that are optimised")

    async def run(self, wanted: Wanted, caller: Caller, tell: Tell, *, sees: Callable[[str], bool]) -> None:
        """Try settings and `tell` of it: what is planned, each trial as it begins and ends, and what was found.

        Args:
            wanted: What is asked for.
            caller: Who asks.
            tell: Is given what there is to tell.
            sees: Of which models the caller may be told.

        Raises:
            InferdError: Nothing can be varied, the model as it is cannot be tried, or tasks of the caller are refused.
        """
        if caller.lease_id != NO_LEASE:
            message = "trials take nothing of a lease; ask without one"
            raise InvalidFieldError(message, field="inferd-lease")
        most = self._limits.search.trials
        if wanted.trials is not None and not LEAST_TRIALS <= wanted.trials <= most:
            raise InvalidFieldError(
                f"trials is {wanted.trials}; it must be from {LEAST_TRIALS} to optimize.trials, which is {most}",
                field="trials",
            )
        most = self._limits.text_tokens
        if wanted.text_tokens is not None and not LEAST_TEXT_TOKENS <= wanted.text_tokens <= most:
            raise InvalidFieldError(
                f"text_tokens is {wanted.text_tokens}; it must be from {LEAST_TEXT_TOKENS} to optimize.text_tokens,"
                f" which is {most}",
                field="text_tokens",
            )
        with self._open_runs.place():
            await self._shelf.look_for(wanted.model)
            model = self._driver.views.model(ModelName(wanted.model)).spec
            knobs = self._find_knobs(model, wanted) if wanted.most_weights_bytes is None else []
            name = self._free_name(model.name)
            run = Run(
                driver=self._driver,
                plugins=self._plugins,
                tasks=self._tasks,
                limits=self._limits,
                wanted=wanted,
                caller=caller,
                model=model,
                name=name,
                knobs=knobs,
                tell=tell,
                sees=sees,
            )
            async with self._driver.closing.cut_short():
                if wanted.most_weights_bytes is not None:
                    check_widths(self._find_backend(model), self._limits.search)
                    run.widths = await plan_widths(
                        run.weigh, budget=wanted.most_weights_bytes, limits=self._limits.search
                    )
                    parts = run.widths.sizes.parts
                    values = tuple(name_parts((part,), len(parts)) for part, size in enumerate(parts) if size)
                    run.knobs = [Knob(WIDE_LAYERS, values)]
                await run.go()

    def _find_backend(self, model: ModelSpec) -> BackendSpec | None:
        reports = (each.spec for each in self._plugins.reports)
        return next((each for each in reports if each is not None and each.name == model.backend), None)

    def _find_knobs(self, model: ModelSpec, wanted: Wanted) -> list[Knob]:
        backend = self._find_backend(model)
        choices = {each.name: each.choices for each in backend.settings} if backend is not None else {}
        account = self._driver.views.devices.get(model.devices[0]) if model.devices else None
        cores = account.free_cores if account is not None else 0
        drafts = self._limits.draft_tokens if model.draft_tokens is None else model.draft_tokens
        now = {name: str(value) for name, value in model.values.items() if value is not None}
        now = {"threads": str(cores), "intra_threads": str(cores), **now, "draft_tokens": str(drafts)}
        choices = {**choices, "draft_tokens": ()}
        known = [each.name for each in VARIETIES if each.name in choices]
        for setting in wanted.only:
            if setting not in known:
                raise InvalidFieldError(
                    f"vary names {setting[:80]!r}, which is not varied; of backend {model.backend!r} it may be "
                    f"{', '.join(known)}",
                    field="vary",
                )
        knobs = find_knobs(choices, now, target=wanted.target, cores=cores, only=wanted.only)
        if not knobs:
            raise InvalidFieldError(
                f"of model {model.name!r} nothing can be varied for this target; backend {model.backend!r} has "
                f"{', '.join(known)}",
                field="vary",
            )
        return knobs

    def _free_name(self, model: ModelName) -> ModelName:
        """A name for trials that no other model has, nor trials of another call."""
        names = [f"{model[:NAME_CHARACTERS]}{TRIAL}{number or ''}" for number in range(NAMES)]
        for name in names:
            known = self._driver.views.find_model(ModelName(name))
            if known is None or known.going:
                return ModelName(name)
        raise ModelBusyError(f"models {names[0]!r} to {names[-1]!r} are all known; delete those that are not needed")
