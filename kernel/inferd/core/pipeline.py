"""Pipelines: steps that take values of others, checked whole, and which of them can run now."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Final

from inferd.core.expressions import INDEX, INPUT, ITEM, RESERVED
from inferd.errors import InvalidFieldError, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.conditions import Condition
    from inferd.core.expressions import Reference, Template
    from inferd.core.lifecycle import Table
    from inferd.core.shapes import Shape

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
IN_FLIGHT: Final = 4


class PipelineState(Enum):
    """Where a run of a pipeline stands; the values are those of `inferd.v1.PipelineState`."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4
    EXPIRED = 5


class StepState(Enum):
    """Where a step of a run stands; the values are those of `inferd.v1.StepState`."""

    WAITING = 1
    RUNNING = 2
    FINISHED = 3
    SKIPPED = 4


class PipelineFormat(Enum):
    """What a blob is as an input; the values are those of `inferd.v1.PipelineFormat`."""

    TEXT = 1
    JSON = 2
    LINES = 3
    JSON_LINES = 4

    @property
    def listed(self) -> bool:
        """Whether it is a list, read as it is needed."""
        return self in (PipelineFormat.LINES, PipelineFormat.JSON_LINES)


class PipelineChange(Enum):
    """What can happen to a run of a pipeline."""

    SUCCEED = 1
    FAIL = 2
    CANCEL = 3
    EXPIRE = 4


PIPELINE_TABLE: Table[PipelineState, PipelineChange] = {
    PipelineState.RUNNING: {
        PipelineChange.SUCCEED: PipelineState.SUCCEEDED,
        PipelineChange.FAIL: PipelineState.FAILED,
        PipelineChange.CANCEL: PipelineState.CANCELLED,
        PipelineChange.EXPIRE: PipelineState.EXPIRED,
    },
    PipelineState.SUCCEEDED: {},
    PipelineState.FAILED: {},
    PipelineState.CANCELLED: {},
    PipelineState.EXPIRED: {},
}


class Gives(Enum):
    """What a task of a step gives."""

    TEXT = "text"
    JSON = "json"
    VECTOR = "vector"
    PIECE = "piece"
    PIECES = "pieces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each task of a step does.

    Attributes:
        model: What it is asked of; of a function its name behind `functions@`.
        texts: Templates of what it is given, in the order of the wire.
        task: All else of it, for who makes the task.
        gives: What comes of it.
        version: Of the function that is called; 0 for the highest, and where none is.
        schema: Of the JSON that it gives; "" where it gives other things.
        samples: Whether it gives a list of several.
    """

    model: str
    texts: tuple[Template | Shape, ...]
    task: object
    gives: Gives
    version: int = 0
    schema: str = ""
    samples: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """What a step is done for.

    Attributes:
        over: A list.
        in_flight: Items at once.
        batch: Items that are one list; 0 for each alone.
    """

    over: Reference
    in_flight: int = IN_FLIGHT
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a branch gives, if its condition holds."""

    value: Reference
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a task that fails is tried again, and for which reasons; none for all."""

    count: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step.

    Attributes:
        name: By which others name its value.
        work: What its tasks do; None for a branch.
        cases: Of a branch: the first one that holds is its value.
        map: The list that it is done for each item of; None for once.
        when: Whether it is done at all, or for an item; what is not done is null.
        retry: What becomes of tasks that fail.
        timeout_s: How long each task may take; None for as long as the run.
    """

    name: str
    work: Work | None = None
    cases: tuple[Case, ...] = ()
    map: ForEach | None = None
    when: Condition | None = None
    retry: Retry = Retry()
    timeout_s: float | None = None

    @cached_property
    def given(self) -> tuple[Reference, ...]:
        """What its tasks are given, each once."""
        return tuple(dict.fromkeys(each for text in (self.work.texts if self.work else ()) for each in text.references))

    @property
    def each(self) -> bool:
        """Whether `when` is asked for each item, as it names it."""
        return (
            self.map is not None
            and self.when is not None
            and any(each.root in (ITEM, INDEX) for each in self.when.references)
        )

    @property
    def all_references(self) -> tuple[Reference, ...]:
        """All that it names."""
        cases = [each for case in self.cases for each in (case.value, *(case.when.references if case.when else ()))]
        over = (self.map.over,) if self.map is not None else ()
        return (*(self.when.references if self.when else ()), *over, *self.given, *cases)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A graph of steps.

    Attributes:
        name: For people; may be "".
        steps: In the order in which they were declared.
        output: What it gives.
    """

    name: str
    steps: tuple[Step, ...]
    output: Reference
    numbers: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {step.name: number for number, step in enumerate(self.steps)})

    def find(self, reference: Reference) -> int | None:
        """The number of the step whose value it names; None for the input and the item."""
        return self.numbers.get(reference.root)

    def check(self) -> None:
        """Refuse one that cannot run, before anything of it does.

        Raises:
            InvalidFieldError: A name is none or comes twice, a reference leads nowhere, steps wait for each other, or
                nothing comes of one.
        """
        for number, step in enumerate(self.steps):
            at = f"pipeline.steps[{number}]"
            _check_name(step.name, f"{at}.name")
            if self.numbers[step.name] != number:
                raise InvalidFieldError(f"{at}.name is {step.name!r}, which another step has", field=f"{at}.name")
            for reference in step.all_references:
                self._check_reference(reference, step, at)
        self._check_reference(self.output, None, "pipeline.output")
        self._check_cycles()
        self._check_used()

    def _check_reference(self, reference: Reference, step: Step | None, at: str) -> None:
        root = reference.root
        if root in self.numbers or root == INPUT:
            return
        mapped = step is not None and step.map is not None
        if root in (ITEM, INDEX):
            if mapped and step is not None and step.map is not None and reference is not step.map.over:
                return
            raise InvalidFieldError(f"{at} names {root!r}, which only a step with map has", field=at)
        known = [INPUT, *self.numbers, *((ITEM, INDEX) if mapped else ())]
        near = suggestion(root, known)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
        raise InvalidFieldError(
            f"{at} names {root!r}, and no step has that name; {hint}",
            field=at,
            metadata={"suggestion": near} if near else {},
        )

    def needs(self, number: int) -> set[int]:
        """The steps that a step names."""
        found = (self.find(each) for each in self.steps[number].all_references)
        return {each for each in found if each is not None}

    def _check_cycles(self) -> None:
        """Refuse steps that wait for each other; without recursion, as they may be many."""
        left = {number: self.needs(number) for number in range(len(self.steps))}
        while free := [number for number, needs in left.items() if not needs & left.keys()]:
            for number in free:
                del left[number]
        if not left:
            return
        way = [min(left)]
        while way.count(way[-1]) == 1:
            way.append(min(left[way[-1]] & left.keys()))
        circle = " → ".join(self.steps[each].name for each in way[way.index(way[-1]) :])
        at = f"pipeline.steps[{way[-1]}]"
        raise InvalidFieldError(f"steps wait for each other: {circle}; each must need only what is before it", field=at)

    def _check_used(self) -> None:
        """Refuse a step that nothing needs: it would never run."""
        first = self.find(self.output)
        used, looked = set[int](), [] if first is None else [first]
        while looked:
            if (number := looked.pop()) not in used:
                used.add(number)
                looked.extend(self.needs(number))
        for number, step in enumerate(self.steps):
            if number not in used:
                at = f"pipeline.steps[{number}]"
                raise InvalidFieldError(
                    f"{at} is {step.name!r}, which nothing needs: neither pipeline.output nor a step that leads there"
                    " names it; name it, or leave it out",
                    field=at,
                )


def _check_name(name: str, at: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED:
        why = "a word of the language" if name in RESERVED else "no name"
        raise InvalidFieldError(
            f"{at} is {name[:80]!r}, {why}; it must be a small letter, then at most 62 of small letters, digits and _",
            field=at,
        )
