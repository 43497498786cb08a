"""Trainings as they are kept: their records, and the steps of their curves as pieces of these."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from inferd.core.priority import Priority
from inferd.core.training import (
    Judged,
    LabelFound,
    Point,
    Training,
    TrainingResult,
    TrainingSpec,
    TrainingState,
    plain_recipe,
    read_recipe,
)
from inferd.runtime.found import leave_out
from inferd.runtime.kept_events import read_error, write_error
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Append, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.runtime.keeper import Keeper
    from inferd.store.store import Store, Write


def write_training(training: Training) -> bytes:
    """The record of a training."""
    said = {each.name: getattr(training, each.name) for each in fields(training)}
    spec = {each.name: getattr(training.spec, each.name) for each in fields(training.spec)}
    return _json(
        {
            **said,
            "spec": {**spec, "recipe": plain_recipe(training.spec.recipe), "priority": training.spec.priority.name},
            "state": training.state.name,
            "judgements": [asdict(each) for each in training.judgements],
            "result": None if training.result is None else asdict(training.result),
            "error": write_error(training.error),
        }
    )


def read_training(value: bytes) -> Training:
    """What was written; raises one of `UNREADABLE` for what is no record of a training."""
    said = json.loads(value)
    spec = said["spec"]
    return Training(
        **{
            **said,
            "spec": TrainingSpec(
                **{**spec, "recipe": read_recipe(spec["recipe"]), "priority": Priority[spec["priority"]]}
            ),
            "state": TrainingState[said["state"]],
            "devices": tuple(said["devices"]),
            "judgements": tuple(map(read_judged, said["judgements"])),
            "result": None if said["result"] is None else TrainingResult(**said["result"]),
            "error": read_error(said["error"]),
        }
    )


def read_judged(said: dict[str, Any]) -> Judged:
    """A judgement that was JSON; raises one of `UNREADABLE` for what is none."""
    return Judged(
        **{
            **said,
            "figures": dict(said["figures"]),
            "labels": tuple(LabelFound(**each) for each in said["labels"]),
            "confusion": tuple(tuple(row) for row in said["confusion"]),
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class TrainingParts(Protocol):
    """Where trainings are kept. What raises, raises StoreUnavailableError; what it was to keep is as it was."""

    async def trainings(self) -> list[Training]:
        """Those that kernels before this one have kept and that can be read."""

    async def put(self, training: Training, points: Sequence[Point] = ()) -> None:
        """Keep it as it stands, and more of its curve; a second point of a step takes the place of the first."""

    async def points(self, training: Training) -> list[Point]:
        """Its curve, by step."""

    async def drop(self, training: Training) -> None:
        """Keep nothing of it any more."""

    def forget(self, training: Training) -> None:
        """Hold nothing of it in memory: its tenant was shredded."""


class StoredTrainings:
    """Keeps trainings in the store.

    Args:
        keeper: Of the kernel.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def trainings(self) -> list[Training]:
        """As `TrainingParts.trainings`."""
        found: list[Training] = await self._keeper.read(_trainings)
        return found

    async def put(self, training: Training, points: Sequence[Point] = ()) -> None:
        """As `TrainingParts.put`."""
        tenant, key = training.tenant, training.training_id
        record = Put(tenant, Kind.TRAINING, key, write_training(training))
        curve = [
            Append(
                tenant,
                Kind.TRAINING_CURVE,
                key,
                each.step,
                _json([each.step, each.loss, each.learning_rate, each.tokens]),
            )
            for each in points
        ]
        await self._write(record, *curve)

    async def points(self, training: Training) -> list[Point]:
        """As `TrainingParts.points`."""

        def read(store: Store) -> list[Point]:
            return [
                Point(*json.loads(value))
                for value in store.pieces(training.tenant, Kind.TRAINING_CURVE, training.training_id)
            ]

        found: list[Point] = await self._keeper.read(read)
        return found

    async def drop(self, training: Training) -> None:
        """As `TrainingParts.drop`."""
        key = training.training_id
        await self._write(Drop(training.tenant, Kind.TRAINING, key), Drop(training.tenant, Kind.TRAINING_CURVE, key))

    def forget(self, training: Training) -> None:
        """Nothing of it is in memory."""

    async def _write(self, *writes: Write) -> None:
        await self._keeper.keep_records(writes)


class HeldTrainings:
    """Holds curves in memory, where the kernel has no store: `train.kept` of `train.curve_steps` at most."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[int, Point]] = {}

    async def trainings(self) -> list[Training]:
        """None."""
        return []

    async def put(self, training: Training, points: Sequence[Point] = ()) -> None:
        """As `TrainingParts.put`."""
        self._curves.setdefault(training.training_id, {}).update({each.step: each for each in points})

    async def points(self, training: Training) -> list[Point]:
        """As `TrainingParts.points`."""
        curve = self._curves.get(training.training_id, {})
        return [curve[step] for step in sorted(curve)]

    async def drop(self, training: Training) -> None:
        """As `TrainingParts.drop`."""
        self.forget(training)

    def forget(self, training: Training) -> None:
        """As `TrainingParts.forget`."""
        self._curves.pop(training.training_id, None)


def _trainings(store: Store) -> list[Training]:
    found: list[Training] = []
    for record in store.records(Kind.TRAINING, partial(leave_out, "training")):
        try:
            found.append(read_training(record.value))
        except UNREADABLE as error:
            leave_out("training", record.tenant, record.key, error)
    return found
