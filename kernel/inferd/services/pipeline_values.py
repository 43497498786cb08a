"""Pipelines and their runs, between the wire and values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from inferd.core.conditions import Condition
from inferd.core.expressions import Reference, Template, references_in
from inferd.core.ids import DEFAULT_TENANT, NO_LEASE
from inferd.core.pipeline import IN_FLIGHT, Case, ForEach, Gives, Pipeline, Retry, Step, Work
from inferd.core.policy import Grant
from inferd.core.shapes import Shape, check_few
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.ask_grants import MayRun, allow_asks
from inferd.services.run_requests import new_task_id
from inferd.services.sampling_values import check_sampling
from inferd.services.task_values import read_spec, request_bytes
from inferd.services.times import read_seconds
from inferd_api.v1 import function_pb2 as fp
from inferd_api.v1 import pipeline_pb2 as pp
from inferd_api.v1 import task_pb2 as tp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.core.function import Function
    from inferd.core.task import TaskSpec
    from inferd.core.task_events import TensorOutput
    from inferd.pipeline_settings import Pipelines as PipelineSettings
    from inferd.runtime.pipelines.order import Order

PIPELINE_LABEL = "inferd.pipeline"
"""Label of the tasks of a run, with its id and the name of the step."""


SEED: Final = "seed"


class PipelineWire:
    """Reads pipelines, and makes the tasks of their steps; see `inferd.runtime.pipelines.tasking.Wire`.

    Args:
        settings: Bounds of pipelines.
        prompt_limit_bytes: `limits.prompt_bytes`.
    """

    def __init__(self, settings: PipelineSettings, prompt_limit_bytes: int) -> None:
        self._settings, self._prompt_limit_bytes = settings, prompt_limit_bytes

    def read(self, written: bytes) -> Pipeline:
        """As `Wire.read`."""
        message = pp.Pipeline.FromString(written)
        check_bound("pipelines.steps", len(message.steps), self._settings.steps, "pipeline.steps")
        if not message.steps:
            raise InvalidFieldError("pipeline.steps is empty; give one step at least", field="pipeline.steps")
        steps, named = list[Step](), 0
        for at, each in enumerate(message.steps):
            named += self._check_texts(each.task, f"pipeline.steps[{at}].task", named)
            steps.append(step := self._step(each, f"pipeline.steps[{at}]"))
            named += sum(len(text.references) for text in _shapes(step))
            self._check_named(named, "pipeline")
        output = message.output or f"{{{message.steps[-1].name}}}"
        return Pipeline(name=message.name, steps=tuple(steps), output=_reference(output, "pipeline.output"))

    def settled(self, written: bytes, functions: Mapping[int, Function]) -> bytes:
        """As `Wire.settled`."""
        message = pp.Pipeline.FromString(written)
        for number, step in enumerate(message.steps):
            function = functions.get(number)
            step.streams = function is not None and function.streams
            if function is not None:
                step.task.call.version = function.version
        return message.SerializeToString(deterministic=True)

    def _step(self, message: pp.PipelineStep, at: str) -> Step:
        if message.HasField("task") == bool(message.branch):
            what = "both task and branch" if message.branch else "neither task nor branch"
            raise InvalidFieldError(f"{at} has {what}; give one of them", field=at)
        if message.branch and (message.HasField("retry") or message.HasField("timeout")):
            raise InvalidFieldError(
                f"{at} has retry or timeout, and branch, which runs no task; leave them out", field=at
            )
        timeout_s = read_seconds(message.timeout, f"{at}.timeout") if message.HasField("timeout") else None
        if timeout_s is not None and timeout_s <= 0:
            raise InvalidFieldError(f"{at}.timeout is {timeout_s:g} s; it must be above 0", field=f"{at}.timeout")
        check_bound("pipelines.retries", message.retry.count, self._settings.retries, f"{at}.retry.count")
        return Step(
            name=message.name,
            work=self._work(message, f"{at}.task") if message.HasField("task") else None,
            cases=tuple(_case(each, f"{at}.branch[{n}]") for n, each in enumerate(message.branch)),
            map=self._map(message.map, f"{at}.map") if message.HasField("map") else None,
            when=Condition.read(message.when, f"{at}.when") if message.when else None,
            retry=Retry(count=message.retry.count, reasons=tuple(message.retry.reasons)),
            timeout_s=timeout_s,
        )

    def _map(self, message: pp.PipelineMap, at: str) -> ForEach:
        in_flight = message.in_flight or min(IN_FLIGHT, self._settings.in_flight)
        check_bound("pipelines.in_flight", in_flight, self._settings.in_flight, f"{at}.in_flight")
        check_bound("pipelines.items", message.batch, self._settings.items, f"{at}.batch")
        return ForEach(over=_reference(message.over, f"{at}.over"), in_flight=in_flight, batch=message.batch)

    def _work(self, message: pp.PipelineStep, at: str) -> Work:
        task = message.task
        kind = task.WhichOneof("input")
        if kind not in ("prompt", "chat", "call"):
            raise InvalidFieldError(f"{at} has the input {kind}; a step has one of prompt, chat and call", field=at)
        if task.labels or task.priority:
            raise InvalidFieldError(f"{at} has labels or a priority; these are the run's: give them there", field=at)
        texts = tuple(
            Shape.read(
                text or "{}",
                path,
                most_values=self._settings.call_values,
                most_references=self._settings.references,
            )
            if kind == "call"
            else Template.read(text, path)
            for text, path in _texts(task, at)
        )
        several = self._check_task(task, at).demand.samples > 1
        grammar = check_sampling(task.sampling).get("grammar")
        schema = grammar.json_schema if grammar is not None else ""
        if kind == "call":
            gives = Gives.PIECES if message.streams else Gives.PIECE
        else:
            gives = Gives.VECTOR if task.HasField("embedding") else Gives.JSON if schema else Gives.TEXT
        version = task.call.version if kind == "call" else 0
        return Work(
            model=task.model, texts=texts, task=task, gives=gives, version=version, schema=schema, samples=several
        )

    def _check_texts(self, task: tp.TaskSpec, at: str, named: int) -> int:
        """How many references the texts of a step have, before any is read; those of a call are in its JSON."""
        found, reads = 0, task.WhichOneof("input") != "call"
        for text, path in _texts(task, at):
            check_bound("limits.prompt_bytes", len(text.encode()), self._prompt_limit_bytes, path)
            found += references_in(text) if reads else 0
            self._check_named(named + found, path)
        return found

    def _check_named(self, named: int, at: str) -> None:
        most = self._settings.references
        check_few("pipelines.references", named, most, f"the texts of the pipeline have up to {at} {{}} references")

    def _check_task(self, task: tp.TaskSpec, at: str) -> TaskSpec:
        """A task as it may be made of it; refuses what none can be."""
        try:
            made, _ = self._make(task, [text or "x" for text, _ in _texts(task, at)], labels={}, deadline=None)
        except (InvalidFieldError, LimitExceededError) as error:
            error.field = (
                error.field.replace("spec", at, 1) if error.field.startswith("spec") else f"{at}.{error.field}"
            )
            error.message = error.message.replace("spec.", f"{at}.")
            raise
        return made

    def task(
        self, step: Step, texts: Sequence[str], *, order: Order, deadline: float, seed: int
    ) -> tuple[TaskSpec, int]:
        """As `Wire.task`."""
        template = step.work.task if step.work is not None else None
        if not isinstance(template, tp.TaskSpec):
            raise TypeError(type(template))
        labels = {**order.labels, PIPELINE_LABEL: f"{order.run_id}/{step.name}"}
        spec, size_bytes = self._make(template, texts, labels=labels, deadline=deadline, seed=seed)
        grant = Grant(order.allows, order.denies)
        allow_asks(spec, MayRun(grant=grant, name=order.who, roles=order.roles, key_id=order.key_id))
        return replace(spec, tenant=order.tenant, lease_id=order.lease_id, priority=order.priority), size_bytes

    def _make(
        self,
        template: tp.TaskSpec,
        texts: Sequence[str],
        *,
        labels: Mapping[str, str],
        deadline: float | None,
        seed: int | None = None,
    ) -> tuple[TaskSpec, int]:
        message = tp.TaskSpec()
        message.CopyFrom(template)
        _put(message, texts)
        generates = message.WhichOneof("input") != "call" and not message.HasField("embedding")
        if seed is not None and generates and not message.sampling.HasField(SEED):
            setattr(message.sampling, SEED, seed)
        spec = read_spec(
            message,
            task_id=new_task_id(),
            tenant=DEFAULT_TENANT,  # the run's takes its place
            deadline=deadline,
            request_id="",
            lease_id=NO_LEASE,
            prompt_limit_bytes=self._prompt_limit_bytes,
        )
        return replace(spec, labels=dict(labels)), request_bytes(message, spec)

    def piece(self, output: TensorOutput) -> str:
        """As `Wire.piece`."""
        return fp.CallOutput.FromString(output.written).json


def _shapes(step: Step) -> list[Shape]:
    return [each for each in step.work.texts if isinstance(each, Shape)] if step.work is not None else []


def _case(message: pp.PipelineCase, at: str) -> Case:
    when = Condition.read(message.when, f"{at}.when") if message.when else None
    return Case(value=_reference(message.value, f"{at}.value"), when=when)


def _reference(text: str, field: str) -> Reference:
    """A reference that stands alone."""
    reference = Template.read(text, field).alone
    if reference is None:
        raise InvalidFieldError(f"{field} is {text[:80]!r}; it must be one reference, like {{parts}}", field=field)
    return reference


def _texts(task: tp.TaskSpec, at: str) -> Iterator[tuple[str, str]]:
    """The texts of a task that may name values, each with its path, always in the same order."""
    match task.WhichOneof("input"):
        case "call":
            yield task.call.input, f"{at}.call.input"
        case "prompt":
            yield task.prompt, f"{at}.prompt"
            if task.embedding.query:
                yield task.embedding.query, f"{at}.embedding.query"
        case _:
            for number, each in enumerate(task.chat.messages):
                yield each.content, f"{at}.chat.messages[{number}].content"


def _put(task: tp.TaskSpec, texts: Sequence[str]) -> None:
    """Put texts in the places of those of `_texts`."""
    match task.WhichOneof("input"):
        case "call":
            task.call.input = texts[0]
        case "prompt":
            task.prompt = texts[0]
            if task.embedding.query:
                task.embedding.query = texts[1]
        case _:
            for each, text in zip(task.chat.messages, texts, strict=True):
                each.content = text


def check_bound(bound: str, value: int, limit: int, field: str) -> None:
    """Refuse what is more than a bound of the configuration.

    Raises:
        LimitExceededError: It is.
    """
    if value > limit:
        raise LimitExceededError(
            f"{field} is {value} and {bound} is {limit}; give less, or raise that setting of the kernel",
            metadata={"bound": bound, "value": str(value), "limit": str(limit)},
            field=field,
        )
