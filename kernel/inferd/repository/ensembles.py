"""Ensembles: models behind each other, of which the configuration says whose outputs are whose inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd_api.inference.model_config_pb2 import ModelConfig

MOST_STEPS: Final = 64
MOST_ENTRIES: Final = 4096  # of all maps of its steps: each request looks at them
FIELD: Final = "config.ensemble_scheduling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A model of an ensemble.

    Attributes:
        model: It.
        version: Its number; "" for the newest.
        inputs: Of which tensors of the ensemble its inputs are, by input.
        outputs: Which tensors of the ensemble its outputs are, by output.
    """

    model: str
    version: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Models behind each other.

    Attributes:
        stages: Their steps: those of a stage need nothing of each other, but of the stages before.
        inputs: What it is given.
        outputs: What it gives.
    """

    stages: tuple[tuple[Step, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """What it needs, each once."""
        return tuple(dict.fromkeys(step.model for stage in self.stages for step in stage))


def ensemble_of(config: ModelConfig, name: str) -> Ensemble:
    """The ensemble that a configuration says.

    Raises:
        InvalidFieldError: It needs what nobody gives, or itself, or has too many steps.
    """
    given = config.ensemble_scheduling.step
    if not 0 < len(given) <= MOST_STEPS:
        raise InvalidFieldError(
            f"ensemble_scheduling has {len(given)} steps; it must be 1 to {MOST_STEPS}", field=FIELD
        )
    if config.ensemble_scheduling.max_inflight_requests:
        raise InvalidFieldError("max_inflight_requests is not offered: quotas and queues bound requests", field=FIELD)
    entries = sum(len(each.input_map) + len(each.output_map) for each in given)
    if entries > MOST_ENTRIES:
        raise InvalidFieldError(
            f"the maps of the steps have {entries} entries; they may have {MOST_ENTRIES}", field=FIELD
        )
    steps = []
    for place, each in enumerate(given):
        where = f"{FIELD}.step[{place}]"
        if not each.model_name or each.model_name == name:
            raise InvalidFieldError(f"step {place} names {each.model_name!r}; it must be another model", field=where)
        if each.model_namespace:
            raise InvalidFieldError(f"step {place} has a model_namespace; a kernel has one repository", field=where)
        version = "" if each.model_version in {0, -1} else str(each.model_version)
        maps = {"inputs": dict(each.input_map), "outputs": dict(each.output_map)}
        steps.append(Step(model=each.model_name, version=version, **maps))
    inputs, outputs = tuple(each.name for each in config.input), tuple(each.name for each in config.output)
    _check_producers(steps, inputs, name)
    return Ensemble(stages=_stages(steps, inputs, outputs, name), inputs=inputs, outputs=outputs)


def _check_producers(steps: list[Step], inputs: tuple[str, ...], name: str) -> None:
    there = set(inputs)
    for tensor in (tensor for step in steps for tensor in step.outputs.values()):
        if tensor in there:
            raise InvalidFieldError(
                f"ensemble tensor '{tensor[:80]}' can appear in an output map only once for ensemble '{name}'",
                field=FIELD,
            )
        there.add(tensor)


def _stages(
    steps: list[Step], inputs: tuple[str, ...], outputs: tuple[str, ...], name: str
) -> tuple[tuple[Step, ...], ...]:
    """Each step in the first stage before which all is there that it needs."""
    there, left, stages = set(inputs), list(steps), list[tuple[Step, ...]]()
    while left:
        stage = tuple(step for step in left if there.issuperset(step.inputs.values()))
        if not stage:
            lacks = sorted({tensor for step in left for tensor in step.inputs.values()} - there)
            raise InvalidFieldError(
                f"ensemble '{name}' needs the tensor '{lacks[0][:80]}', which no step gives before it is needed",
                field=FIELD,
            )
        there.update(tensor for step in stage for tensor in step.outputs.values())
        chosen = set(map(id, stage))
        left = [step for step in left if id(step) not in chosen]
        stages.append(stage)
    if missing := [tensor for tensor in outputs if tensor not in there]:
        raise InvalidFieldError(
            f"ensemble '{name}' gives the output '{missing[0][:80]}', which no step gives", field=FIELD
        )
    return tuple(stages)
