"""What may be asked of explanations; all that they compute are tasks of who asks."""

from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

from inferd.config import Settings
from inferd.core.document_index import Index
from inferd.core.explanation import ExplanationMethod
from inferd.core.ids import ModelName
from inferd.errors import LimitExceededError
from inferd.runtime.classifying import text_input
from inferd.runtime.driver import Driver
from inferd.runtime.explanation_work import Asker, texts_of
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.class_explanation import LabelRun, refuse
from inferd.runtime.front.examples import Examples, Sources
from inferd.runtime.front.explained import Cost, Explained, Plan, Progress, Tell, Told, Wanted, WantedExamples
from inferd.runtime.front.explanation import Run
from inferd.runtime.front.rescoring import TRIES
from inferd.runtime.front.room import patiently
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.shelf import Shelf

NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class BareRun:
    """An explanation by examples alone."""

    wanted: Wanted
    tell: Tell

    async def plan(self) -> Plan:
        """It costs nothing itself."""
        return Plan(spans=0, answer_tokens=0, cost=Cost())

    async def go(self) -> None:
        """Tell the texts of the input."""
        await self.tell(await self.plan())
        await self.tell(
            Explained(
                wanted=self.wanted,
                texts=texts_of(self.wanted.given),
                spans=(),
                answer=self.wanted.answer,
                targets=(),
                tokens=((), ()),
                faithfulness=None,
                planned=Cost(),
                cost=Cost(),
            )
        )


class Explaining:
    """Plans and computes explanations.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        tasks: By which they are computed.
        settings: Of the kernel.
        sources: Where examples are.
    """

    def __init__(self, driver: Driver, shelf: Shelf, tasks: Tasks, settings: Settings, sources: Sources) -> None:
        self._driver = driver
        self._sources = sources
        self._shelf = shelf
        self._tasks = tasks
        self._limits = settings.explanations
        share = settings.scheduler.tenant_share
        self._open = SharedBound("explanations.at_once", self._limits.at_once, share, "explanations")

    async def plan(self, wanted: Wanted, caller: Caller) -> Plan:
        """What an explanation would cost; its model is loaded for that.

        Raises:
            InferdError: It cannot be, or costs more than may be.
        """

        async def tell(_: Told) -> None:
            """There is nothing to tell."""

        with self._open.place(caller.tenant):
            async with self._driver.closing.cut_short():
                examples = await self._examples(wanted, caller)
                more = Cost() if examples is None else await examples.plan()
                plan = await (await self._run(wanted, caller, tell)).plan()
                return plan if examples is None else with_examples(plan, more, self._limits.tokens)

    async def explain(self, wanted: Wanted, caller: Caller, tell: Tell) -> None:
        """Explain an answer, and `tell` of it: the plan, how far it is, and what was found.

        Raises:
            InferdError: As `plan`, or a task of it failed.
        """
        with self._open.place(caller.tenant):
            async with self._driver.closing.cut_short():
                examples = await self._examples(wanted, caller)
                if examples is not None:
                    tell = beside(examples, await examples.plan(), tell, most_tokens=self._limits.tokens)
                await (await self._run(wanted, caller, tell)).go()

    def index_of(self, source: WantedExamples, caller: Caller) -> Index:
        """The index that examples are looked for in.

        Raises:
            IndexNotFoundError: There is none.
        """
        return self._sources.indexes.find(caller, source.index).index

    async def _examples(self, wanted: Wanted, caller: Caller) -> Examples | None:
        if wanted.examples is None:
            return None
        if wanted.examples.model:
            await self._shelf.look_for(wanted.examples.model)
        return Examples(
            driver=self._driver,
            sources=self._sources,
            limits=self._limits,
            wanted=wanted,
            source=wanted.examples,
            caller=caller,
        )

    async def _run(self, wanted: Wanted, caller: Caller, tell: Tell) -> Run | LabelRun | BareRun:
        await self._shelf.look_for(wanted.model)
        model = self._driver.views.model(ModelName(wanted.model)).spec.name
        if wanted.method is ExplanationMethod.EXAMPLES:
            return BareRun(wanted, tell)
        asker = Asker(
            name=token_hex(NAME_BYTES),
            tenant=caller.tenant,
            model=model,
            adapter=wanted.adapter,
            priority=wanted.priority,
            lease_id=caller.lease_id,
            deadline=caller.deadline,
        )
        signature = await patiently(
            lambda: self._driver.questions.find_signature(model, lease_id=caller.lease_id), tries=TRIES
        )
        of: dict[str, Any] = {"driver": self._driver, "tasks": self._tasks, "limits": self._limits}
        of |= {"wanted": wanted, "asker": asker, "tell": tell}
        if not signature:
            return Run(**of)
        try:
            return LabelRun(**of, input_name=text_input(signature))
        except ValueError as error:
            raise refuse(model, str(error)) from None


def with_examples(plan: Plan, more: Cost, most_tokens: int) -> Plan:
    """A plan with what examples cost besides.

    Raises:
        LimitExceededError: Both compute more tokens than may be.
    """
    if (value := plan.cost.computed_tokens + more.computed_tokens) > most_tokens:
        raise LimitExceededError(
            f"the explanation has {value} tokens, {more.computed_tokens} of them for vectors of examples, and"
            f" explanations.tokens is {most_tokens}; look for examples in an index or in fewer rows, draw fewer orders,"
            " or explain by larger spans",
            metadata={"bound": "explanations.tokens", "value": str(value), "limit": str(most_tokens)},
        )
    return replace(plan, cost=plan.cost + more)


def beside(examples: Examples, more: Cost, tell: Tell, *, most_tokens: int) -> Tell:
    """Tells what an explanation tells, with its examples and what these cost: `more`, as was planned."""

    async def told(what: Told) -> None:
        match what:
            case Plan():
                what = with_examples(what, more, most_tokens)
            case Progress():
                what = replace(what, sequences=what.sequences + more.sequences)
            case Explained():
                found = await examples.find()
                planned, cost = what.planned + more, what.cost + examples.cost
                what = replace(what, examples=found, planned=planned, cost=cost)
        await tell(what)

    return told
