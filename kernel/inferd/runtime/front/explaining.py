"""What may be asked of explanations; all that they compute are tasks of who asks."""

from secrets import token_hex
from typing import Any

from inferd.config import Settings
from inferd.core.ids import ModelName
from inferd.runtime.classifying import text_input
from inferd.runtime.driver import Driver
from inferd.runtime.explanation_work import Asker
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.class_explanation import LabelRun, refuse
from inferd.runtime.front.explained import Plan, Tell, Told, Wanted
from inferd.runtime.front.explanation import Run
from inferd.runtime.front.rescoring import TRIES
from inferd.runtime.front.room import patiently
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.shelf import Shelf

NAME_BYTES = 16


class Explaining:
    """Plans and computes explanations.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        tasks: By which they are computed.
        settings: Of the kernel.
    """

    def __init__(self, driver: Driver, shelf: Shelf, tasks: Tasks, settings: Settings) -> None:
        self._driver = driver
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
                return await (await self._run(wanted, caller, tell)).plan()

    async def explain(self, wanted: Wanted, caller: Caller, tell: Tell) -> None:
        """Explain an answer, and `tell` of it: the plan, how far it is, and what was found.

        Raises:
            InferdError: As `plan`, or a task of it failed.
        """
        with self._open.place(caller.tenant):
            async with self._driver.closing.cut_short():
                await (await self._run(wanted, caller, tell)).go()

    async def _run(self, wanted: Wanted, caller: Caller, tell: Tell) -> Run | LabelRun:
        await self._shelf.look_for(wanted.model)
        model = self._driver.views.model(ModelName(wanted.model)).spec.name
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
