"""Trainings, between the wire and values."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from inferd.core.priority import Priority
from inferd.core.training import (
    MOST_RANKS,
    Training,
    TrainingMethod,
    TrainingRecipe,
    TrainingSpec,
    plain_recipe,
)
from inferd.errors import InvalidFieldError
from inferd.model_names import NAME_RULE, is_name
from inferd.services.evaluation_values import MOST_SEED, MOST_TITLE, NANOS
from inferd.services.status import status_of
from inferd.services.task_values import read_priority
from inferd_api.v1 import training_pb2 as tp
from inferd_api.v1.priority_pb2 import Priority as WirePriority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.training import Judged, Point

ADAPTER_FORM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
SCHEDULES: Final = ("cosine", "linear", "constant")
PRECISIONS: Final = ("", "float32", "bfloat16")
TUNES: Final = ("", "full", "lora", "head")
KEEPS: Final = ("", "even", "needed")
MOST_FIELD, MOST_TARGETS, MOST_TARGET = 128, 64, 256
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "epochs": (1e-6, 10_000),
    "batch": (1, 65_536),
    "accumulate": (1, 65_536),
    "learning_rate": (0, 100),
    "warmup": (0, 1),
    "weight_decay": (0, 1000),
    "clip": (0, 1e9),
    "seed": (0, MOST_SEED),
    "most_tokens": (1, 1 << 20),
    "held": (0, 0.9),
    "evaluate_every": (0, 1_000_000_000),
    "patience": (0, 1_000_000),
    "checkpoint_every": (0, 1_000_000_000),
    "rank": (1, 1024),
    "alpha": (1e-6, 10_000),
    "dropout": (0, 0.999),
    "ranks": (1, MOST_RANKS),
    "least_ranks": (1, MOST_RANKS),
    "layers": (0, 4096),
    "width": (0, 1 << 20),
}
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "tune": TUNES,
    "keep": KEEPS,
}
OF_METHOD: Final[Mapping[str, TrainingMethod]] = {
    "label": TrainingMethod.CLASSIFY,
    "pair": TrainingMethod.EMBED,
    "tune": TrainingMethod.CLASSIFY,
    "layers": TrainingMethod.DISTIL,
    "width": TrainingMethod.DISTIL,
    "keep": TrainingMethod.DISTIL,
}
OF_LORA: Final = ("rank", "alpha", "dropout", "targets")
"""Of LORA, and of what is tuned so."""


def read_spec(spec: tp.TrainingSpec) -> TrainingSpec:
    """What is to be trained.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    recipe = read_recipe(spec.recipe)
    of_adapter = recipe.method is TrainingMethod.LORA
    if not (ADAPTER_FORM.fullmatch(spec.name) if of_adapter else is_name(spec.name)):
        rule = "1 to 128 of letters, digits, '.', '_' and '-', and begin with none of '.' and '-'"
        raise InvalidFieldError(
            f"spec.name is {spec.name[:140]!r}; it must have {rule if of_adapter else NAME_RULE}", field="spec.name"
        )
    if len(spec.title) > MOST_TITLE:
        message = f"spec.title has {len(spec.title)} characters; at most {MOST_TITLE}"
        raise InvalidFieldError(message, field="spec.title")
    return TrainingSpec(
        model=spec.model,
        recipe=recipe,
        name=spec.name,
        replace=spec.replace,
        priority=read_priority(spec.priority) if spec.priority else Priority.LOW,
        backend=spec.backend,
        device=spec.device,
        title=spec.title,
    )


def read_recipe(recipe: tp.TrainingRecipe) -> TrainingRecipe:
    """How a model is to be trained.

    Raises:
        InvalidFieldError: A field has a value outside what it allows, or is of another method.
    """
    methods = ", ".join(f"{each.value} ({each.name})" for each in TrainingMethod)
    if recipe.method not in {each.value for each in TrainingMethod}:
        raise _wrong("method", f"is {recipe.method}; it must be one of {methods}")
    method = TrainingMethod(recipe.method)
    given: dict[str, Any] = {}
    for field, value in recipe.ListFields():
        name = field.name
        if name == "method":
            continue
        if (owner := OF_METHOD.get(name, method)) is not method:
            raise _wrong(name, f"is given, and method is {method.name}; it is of {owner.name}: leave it out")
        if name in OF_LORA and method is not TrainingMethod.LORA and recipe.tune != "lora":
            also = ", or 'lora' as tune" if method is TrainingMethod.CLASSIFY else ""
            raise _wrong(name, f"is given, and method is {method.name}; it is of LORA: leave it out{also}")
        given[name] = tuple(value) if name == "targets" else value
        _check(name, value)
    read = TrainingRecipe(method=method, **given)
    if read.accumulate > read.batch:
        raise _wrong("accumulate", f"is {read.accumulate}, and batch is {read.batch}; it must be at most that")
    if read.least_ranks > read.ranks:
        raise _wrong("least_ranks", f"is {read.least_ranks}, and ranks is {read.ranks}; it must be at most that")
    if read.ranks > read.batch:
        raise _wrong("ranks", f"is {read.ranks}, and batch is {read.batch}; each needs a row of a step")
    return read


def _check(name: str, value: Any) -> None:
    if name in RANGES:
        least, most = RANGES[name]
        if not (math.isfinite(value) and least <= value <= most):
            raise _wrong(name, f"is {value:g}; it must be from {least:g} to {most:g}")
    elif name in CHOICES:
        if value not in CHOICES[name]:
            raise _wrong(name, f"is {value[:80]!r}; it must be one of {', '.join(filter(None, CHOICES[name]))}")
    elif name == "targets":
        if len(value) > MOST_TARGETS or not all(0 < len(each) <= MOST_TARGET for each in value):
            raise _wrong(name, f"has {len(value)} names; at most {MOST_TARGETS}, each of 1 to {MOST_TARGET} characters")
    elif not 0 < len(value) <= MOST_FIELD:
        raise _wrong(name, f"has {len(value)} characters; it must have 1 to {MOST_FIELD}")


def _wrong(name: str, what: str) -> InvalidFieldError:
    return InvalidFieldError(f"spec.recipe.{name} {what}", field=f"spec.recipe.{name}")


def write_training(training: Training, *, whole: bool = True) -> tp.Training:
    """A training for the wire; its card and judgements where it is `whole`."""
    spec, result = training.spec, training.result
    written = tp.Training(
        training_id=training.training_id,
        tenant=training.tenant,
        spec=tp.TrainingSpec(
            model=spec.model,
            recipe=_write_recipe(spec.recipe),
            name=spec.name,
            replace=spec.replace,
            priority=WirePriority.ValueType(spec.priority.value),
            backend=spec.backend,
            device=spec.device,
            title=spec.title,
        ),
        state=tp.TrainingState.ValueType(training.state.value),
        data_digest=f"sha256:{training.digest}",
        rows=training.rows,
        held_digest=f"sha256:{training.held_digest}" if training.held_digest else "",
        held_rows=training.held_rows,
        backend=training.backend,
        steps=training.steps,
        step=training.step,
        loss=training.loss,
        learning_rate=training.learning_rate,
        tokens=training.tokens,
        tokens_per_s=training.tokens_per_s,
        left_s=training.left_s,
        computed_s=training.computed_s,
        cut_rows=training.cut,
        checkpoint_step=training.checkpoint,
        attempts=training.attempts,
        waits_for=training.waits_for,
        ranks=training.ranks,
        judgements=map(_write_judged, training.judgements) if whole else (),
        ended_early=training.ended_early,
        result=None
        if result is None
        else tp.TrainingResult(
            kind=result.kind,
            model=result.model,
            adapter=result.adapter,
            version=result.version,
            path=result.path,
            size_bytes=result.size_bytes,
            digest=result.digest,
        ),
        card=training.card if whole else "",
        error=None if training.error is None else status_of(training.error, spec.model),
    )
    moments = {"create_time": training.created, "start_time": training.started, "finish_time": training.finished}
    for name, at in moments.items():
        if at is not None:
            getattr(written, name).FromNanoseconds(int(at * NANOS))
    return written


def _write_recipe(recipe: TrainingRecipe) -> tp.TrainingRecipe:
    plain = plain_recipe(recipe)
    values = {each.name: plain[each.name] for each in fields(recipe) if each.name != "method"}
    return tp.TrainingRecipe(method=tp.TrainingMethod.ValueType(recipe.method.value), **values)


def _write_judged(judged: Judged) -> tp.TrainingJudgement:
    return tp.TrainingJudgement(
        step=judged.step,
        loss=judged.loss,
        figures=judged.figures,
        labels=[
            tp.TrainingLabel(
                label=each.label, precision=each.precision, recall=each.recall, f1=each.f1, support=each.support
            )
            for each in judged.labels
        ],
        confusion=[tp.TrainingConfusion(rows=row) for row in judged.confusion],
    )


def write_point(point: Point) -> tp.TrainingStep:
    """A step for the wire."""
    return tp.TrainingStep(step=point.step, loss=point.loss, learning_rate=point.learning_rate, tokens=point.tokens)
