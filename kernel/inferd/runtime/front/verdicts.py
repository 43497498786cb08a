"""Classifiers are asked, by ordinary tasks with deadlines of their own, and their answers go to workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.core.ids import ModelName
from inferd.core.task_events import Output, TensorOutput
from inferd.errors import InferdError
from inferd.runtime.classifying import NONE, classifying_task, finds, read_labels, text_input

if TYPE_CHECKING:
    from inferd.moderation.rules import Classifier, Rule
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.moderation import Question


class Verdicts:
    """Asks classifiers. One writer: itself.

    Whatever comes of a question, its worker is told, once: that the rule has found something, that it has not, or why
    there is no answer. What the rule says of the last is for the worker to do.

    Args:
        driver: Of the kernel.
        tasks: By which they are asked.
        most: Questions at once.
        share: A tenant may have so many times what is still free of them.
    """

    def __init__(self, driver: Driver, tasks: Tasks, *, most: int, share: float) -> None:
        self._driver = driver
        self._tasks = tasks
        self._most = most
        self._share = share
        self._open: dict[asyncio.Task[None], str] = {}  # and whose they are

    def ask(self, question: Question, rule: Rule, text: str) -> None:
        """Have a classifier asked about a text."""
        asked = rule.classifier
        if asked is None:
            return
        known = self._driver.views.find_task(question.task_id)
        tenant = "" if known is None else known.spec.tenant
        own = sum(each == tenant for each in self._open.values())
        if own >= self._share * (self._most - len(self._open)):
            failed = f"{own} texts of its tenant are asked about, {len(self._open)} of all; moderation.questions is "
            self._driver.moderation.answer(question, failed=f"{failed}{self._most}")
            return
        task = asyncio.create_task(self._see_to(question, asked, text), name="classifier")
        self._open[task] = tenant
        task.add_done_callback(self._open.pop)

    async def _see_to(self, question: Question, asked: Classifier, text: str) -> None:
        found, failed = False, "it could not be asked"
        try:
            async with asyncio.timeout(asked.deadline_s):
                found = await self._ask(asked, text)
            failed = ""
        except TimeoutError:
            failed = f"it did not answer within {asked.deadline_s:g} s"
        except InferdError as error:
            failed = f"{error.reason}: {error.message}"
        except ValueError as error:
            failed = str(error)
        finally:
            self._driver.moderation.answer(question, found=found, failed=failed)

    async def _ask(self, asked: Classifier, text: str) -> bool:
        deadline = self._driver.clock.now() + asked.deadline_s
        name = ""
        if not asked.prompt:
            model = ModelName(asked.model)
            name = text_input(await self._driver.questions.signature(model))
        spec = classifying_task(asked, text, input_name=name, deadline=deadline)
        said, told = "", None
        async with self._tasks.run(spec, size_bytes=spec.demand.memory_bytes) as stream:
            async for batch in stream.follow(0):
                for _, event in batch:
                    if isinstance(event, Output):
                        said += event.text
                    elif isinstance(event, TensorOutput):
                        told = event
        if not asked.prompt:
            if told is None:
                raise ValueError("it gave nothing")
            return finds(asked, read_labels(told))
        if said.strip() not in (*asked.labels, NONE):
            raise ValueError(f"it gave {len(said)} characters that are none of its labels")
        return said.strip() in asked.labels
