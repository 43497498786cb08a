"""What becomes of what was trained: a model, a version of one, or an adapter; and the card of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from inferd.core.ids import ModelName
from inferd.core.training import TrainingResult, plain_recipe
from inferd.errors import InferdError, ModelExistsError, words_of
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.versions import Other
from inferd.training_errors import TrainingFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.training import Judged, Point, Training
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.models import Models
    from inferd.runtime.training_files import TrainingFiles

MOST_SHOWN = 20  # points of a curve and judgements in a card for people


class TrainingOutcome:
    """Makes models and adapters of what was trained.

    Args:
        driver: Of the kernel.
        models: That it has.
        files: Of trainings.
    """

    def __init__(self, driver: Driver, models: Models, files: TrainingFiles) -> None:
        self._driver = driver
        self._models = models
        self._files = files

    def check_name(self, name: str, *, replace: bool) -> None:
        """Refuse a name that a model has already, unless it is to be another version of that.

        Raises:
            ModelExistsError: One has it.
        """
        if not replace and (known := self._driver.views.find_model(ModelName(name))) is not None:
            raise ModelExistsError(
                f"model {name!r} exists and is of {known.spec.source}; take another name, or have what is trained be a"
                " new version of it (spec.replace)",
                field="spec.name",
            )

    async def settle(self, training: Training, exported: Mapping[str, Any]) -> TrainingResult:
        """Have what was exported be known, under the name that was asked for; again changes nothing.

        Raises:
            InferdError: It cannot be loaded by any backend here, or the name is taken; the files stay.
        """
        size_bytes, digest = int(exported["size_bytes"]), str(exported["digest"])
        try:
            source = await self._files.source(training.training_id)
        except OSError as error:
            cause = f"what was trained cannot be read: {words_of(error)}"
            raise TrainingFailedError(cause, metadata={"cause": cause}) from error
        if exported["kind"] == "adapter":
            await self._models.adapters.add_trained(
                training.spec.model, training.spec.name, str(source), replace=training.spec.replace
            )
            return TrainingResult(
                kind="adapter",
                model=training.spec.model,
                adapter=training.spec.name,
                path=str(source),
                size_bytes=size_bytes,
                digest=digest,
            )
        name, known = training.spec.name, self._driver.views.find_model(ModelName(training.spec.name))
        if known is not None and known.spec.path != str(source):
            self.check_name(name, replace=training.spec.replace)
            caller = Caller(tenant=training.tenant)
            model = await self._models.versions.update(name, Other(source=str(source), path=source), caller)
        else:
            model = await self._models.add_trained(name=name, source=str(source), path=source)
        return TrainingResult(
            kind="model",
            model=name,
            version=model.serving.number,
            path=str(source),
            size_bytes=size_bytes,
            digest=digest,
        )

    def users(self, training_id: str) -> list[ModelName]:
        """The models that have files from there, their own or of an adapter, whoever made them known."""
        views, found = self._driver.views, []
        for name in views.model_names():
            model = views.find_model(name)
            if model is None:
                continue
            paths = [version.spec.path for version in model.versions.values()]
            paths += [each.path for each in model.traits.adapters]
            if any(self._files.has(training_id, path) for path in paths):
                found.append(ModelName(name))
        return found


def make_card(
    training: Training, points: Sequence[Point], *, versions: Mapping[str, str], judged: Judged | None
) -> dict[str, Any]:
    """The card of what was trained, as JSON has it.

    Args:
        training: As it ended.
        points: Its curve.
        versions: Of the libraries that trained.
        judged: What was found of what was exported.
    """
    spec = training.spec
    return {
        "name": spec.name,
        "title": spec.title or spec.name,
        "training_id": training.training_id,
        "method": spec.recipe.method.name.lower(),
        "base": spec.model,
        "backend": training.backend,
        "data": {"digest": f"sha256:{training.digest}", "rows": training.rows, "cut_rows": training.cut},
        "held": {
            "digest": f"sha256:{training.held_digest}" if training.held_digest else "",
            "rows": training.held_rows,
        },
        "recipe": plain_recipe(spec.recipe),
        "steps": {"planned": training.steps, "done": training.step, "ended_early": training.ended_early},
        "tokens": training.tokens,
        "computed_s": round(training.computed_s, 3),
        "attempts": training.attempts,
        "result": None if training.result is None else asdict(training.result),
        "judged": None if judged is None else asdict(judged),
        "judgements": [{"step": each.step, "loss": each.loss, **dict(each.figures)} for each in training.judgements],
        "curve": [[each.step, each.loss, each.learning_rate] for each in points],
        "versions": dict(versions),
    }


def card_text(card: Mapping[str, Any]) -> str:
    """A card for people, in Markdown."""
    data, steps, judged = card["data"], card["steps"], card["judged"]
    lines = [
        f"# {card['title']}",
        "",
        f"Trained by `{card['method']}` with backend `{card['backend']}`"
        + (f" from model `{card['base']}`." if card["base"] else "."),
        "",
        "| what | value |",
        "|---|---|",
        f"| training | {card['training_id']} |",
        f"| data | {data['rows']} rows, {data['digest']} |",
        f"| held back | {card['held']['rows'] or 'a share of the data'} {card['held']['digest']} |",
        f"| steps | {steps['done']} of {steps['planned']}{', ended early' if steps['ended_early'] else ''} |",
        f"| tokens | {card['tokens']} |",
        f"| computed in | {card['computed_s']:g} s, by {card['attempts']} workers |",
        f"| rows that were cut | {data['cut_rows']} |",
        f"| seed | {card['recipe']['seed']} |",
        *(f"| {name} | {version} |" for name, version in card["versions"].items()),
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(card["recipe"], indent=1),
        "```",
    ]
    if judged is not None:
        lines += ["", f"## Figures, after step {judged['step']}", "", f"- loss: {judged['loss']:.6g}"]
        lines += [f"- {name}: {value:.6g}" for name, value in judged["figures"].items()]
        lines += _labels_text(judged)
    lines += ["", "## Curve", "", "| step | loss |", "|---|---|"]
    stride = -(-len(card["curve"]) // MOST_SHOWN) or 1
    lines += [f"| {step} | {loss:.6g} |" for step, loss, _ in card["curve"][::stride]]
    return "\n".join(lines) + "\n"


def _labels_text(judged: Mapping[str, Any]) -> list[str]:
    if not judged["labels"]:
        return []
    names = [str(each["label"]).replace("|", "\\|") for each in judged["labels"]]
    lines = ["", "| label | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {each['precision']:.4f} | {each['recall']:.4f} | {each['f1']:.4f} | {each['support']} |"
        for name, each in zip(names, judged["labels"], strict=True)
    ]
    if judged["confusion"]:
        lines += ["", "True labels by found ones:", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(names, judged["confusion"], strict=True)
        ]
    return lines


def tell_failed(error: InferdError, training: Training) -> InferdError:
    """Why a result could not be made known, and where its files are."""
    folder = f" What was trained is in the result folder of training {training.training_id}."
    error.message += folder
    error.args = (error.message,)
    return error
