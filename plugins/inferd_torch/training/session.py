"""Steps, evaluations and checkpoints of one training, whatever is trained.

All that chance decides follows from the seed and the number of a step: the order of rows, what is dropped. A checkpoint
therefore needs what is trained, what the optimiser keeps of it, and that number; and the number of threads, since sums
that are divided otherwise are rounded otherwise.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inferd.plugin import ExportKind, Judgement, TrainError, TrainingRecipe, TrainStep
from inferd.plugin.ranks import RankLostError
from inferd_torch.training.computing import add_gradients, computing
from inferd_torch.training.following import deal, sum_gradients, trained_of
from inferd_torch.training.gang import Gang, listen
from inferd_torch.training.memory import cast
from inferd_torch.training.objective import Objective
from inferd_torch.training.rows import Order, Row, Rows
from inferd_torch.training.schedule import rate_at

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"
_FORMAT: Final = 1
_KEPT: Final = ("exp_avg", "exp_avg_sq", "step")  # of AdamW, for each parameter
_MATRIX: Final = 2  # dimensions; what has fewer is a norm or a bias, and does not decay


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a training goes through.

    Attributes:
        rows: To learn from.
        order: Of them.
        held: Held-back rows, and their places.
        identity: Digest of all that decides the result.
    """

    rows: Rows
    order: Order
    held: tuple[Rows, Sequence[int]]
    identity: str


class TorchTrainSession:
    """One training.

    Args:
        objective: What is trained.
        course: By what.
        recipe: How.
        device: Where.
        threads: Of the processor.
        precision: Of what is computed.

    Attributes:
        steps: In all.
    """

    def __init__(
        self,
        objective: Objective,
        course: Course,
        recipe: TrainingRecipe,
        *,
        device: torch.device,
        threads: int,
        precision: torch.dtype,
    ) -> None:
        self.steps = course.order.steps
        self._objective: Objective | None = objective
        self._course, self._recipe, self._device = course, recipe, device
        self._threads, self._precision = threads, precision
        self._done = 0
        self._awaits: tuple[Any, dict[str, Any]] | None = None
        self._gang: Gang | None = None
        self._trained = trained_of(objective.network)
        self._optimizer = make_optimizer(list(self._trained.values()), recipe)

    def step(self) -> TrainStep:
        """Do the next step.

        Raises:
            TrainError: The loss or its gradient is no finite number, a row is wrong, or no step is left.
        """
        number, objective = self._done + 1, self._open()
        if number > self.steps:
            raise TrainError(f"all {self.steps} steps are done")
        rows = self._course.rows
        given = [(rows[place], rows.name(place)) for place in self._course.order.rows(number)]
        examples = [objective.read(row, name) for row, name in given]
        weight = sum(map(objective.weight, examples))
        if not weight:
            raise TrainError(
                f"step {number}: none of its {len(examples)} rows has a token to learn within"
                f" {self._recipe.most_tokens}: raise 'most_tokens'"
            )
        rate = rate_at(self._recipe, number, self.steps)
        objective.network.train()
        with self._computing(number):
            loss = self._add_gradients(number, given, examples, weight)
            self._check_finite(number, "loss", loss)
            self._check_finite(number, "length of the gradient", self._clip())
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self._done = number
        return TrainStep(
            step=number,
            loss=loss,
            learning_rate=rate,
            tokens=sum(map(objective.tokens, examples)),
            cut=sum(bool(example.cut) for example in examples),
        )

    def _add_gradients(self, number: int, given: list[tuple[Row, str]], examples: list[Any], weight: int) -> float:
        """Of the rows of a step, by all ranks; their loss."""
        objective, gang = self._open(), self._gang
        more: dict[str, Any] = {"weight": weight, "device": self._device, "precision": self._precision}
        if gang is None:
            return add_gradients(objective, examples, self._recipe, **more)
        try:
            gang.tell({"step": number, "weight": weight, "rows": deal(given, gang.ranks)})
            gang.share(list(self._trained.values()))
            loss = add_gradients(objective, deal(examples, gang.ranks)[0], self._recipe, **more)
            return sum_gradients(gang, self._trained, loss)
        except RankLostError:
            self._optimizer.zero_grad(set_to_none=True)
            raise

    def listen(self, ranks: int, address: str, join_s: float) -> str:
        """Await other workers; where.

        Raises:
            TrainError: This machine has no such address.
        """
        store, meeting = listen(ranks, address, join_s)
        word = meeting.rpartition(" ")[2]
        self._awaits = (store, {"ranks": ranks, "address": address, "join_s": join_s, "word": word})
        return meeting

    def gather(self) -> None:
        """Wait until all have come.

        Raises:
            RankLostError: One did not come in time, or is a stranger.
            TrainError: `listen` was not called before.
        """
        if self._awaits is None:
            raise TrainError("nobody is awaited")
        (store, how), self._awaits = self._awaits, None
        self._gang = Gang(store, rank=0, **how)

    def evaluate(self) -> Judgement:
        """Judge what is trained so far by the rows that are held back.

        Raises:
            TrainError: One of them is wrong.
        """
        objective, (rows, places) = self._open(), self._course.held
        size = -(-self._recipe.batch // self._recipe.accumulate)
        examples = [objective.read(rows[place], rows.name(place)) for place in places]
        objective.network.eval()
        with self._computing(0), torch.no_grad(), self._casting():
            return objective.judge([examples[at : at + size] for at in range(0, len(examples), size)])

    def save(self, folder: Path) -> None:
        """Write what is trained, what the optimiser keeps, and where the order of rows is; `state.json` comes last."""
        self._open()
        save_file({n: each.detach().cpu().contiguous() for n, each in self._trained.items()}, folder / WEIGHTS)
        moments = {}
        for name, each in self._trained.items():
            for kind, value in self._optimizer.state.get(each, {}).items():
                moments[f"{name}.{kind}"] = value.detach().cpu().contiguous()
        save_file(moments, folder / MOMENTS)
        state = {
            "format": _FORMAT,
            "identity": self._course.identity,
            "step": self._done,
            "threads": self._threads,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            TrainError: It is of another request, or damaged.
        """
        self._open()
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            weights, moments = load_file(folder / WEIGHTS), load_file(folder / MOMENTS)
            form, identity = state["format"], state["identity"]
            done, threads = int(state["step"]), int(state["threads"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise TrainError(f"{folder}: the checkpoint is damaged: {type(error).__name__}: {error}") from error
        if form != _FORMAT:
            raise TrainError(f"{folder}: the checkpoint has format {form}; this version goes on from {_FORMAT}")
        if identity != self._course.identity:
            raise TrainError(f"{folder}: the checkpoint is of another recipe, other rows or another model")
        if not 0 <= done <= self.steps or threads < 1:
            raise TrainError(f"{folder}: the checkpoint has done {done} of {self.steps} steps with {threads} threads")
        _check(folder / WEIGHTS, weights, {n: each.shape for n, each in self._trained.items()})
        shapes = {
            f"{name}.{kind}": torch.Size() if kind == "step" else each.shape
            for name, each in self._trained.items()
            for kind in _KEPT
            if f"{name}.step" in moments  # what never had a gradient has none
        }
        _check(folder / MOMENTS, moments, shapes)
        with torch.no_grad():
            for name, each in self._trained.items():
                each.copy_(weights[name])
                if f"{name}.step" in moments:
                    self._optimizer.state[each] = {kind: moments[f"{name}.{kind}"].to(each.device) for kind in _KEPT}
        self._done, self._threads = done, threads

    def export(self, folder: Path) -> ExportKind:
        """Write what was trained."""
        return self._open().export(folder)

    def close(self) -> None:
        """Give all memory back."""
        self._objective = self._gang = self._awaits = None
        self._trained.clear()
        self._optimizer = make_optimizer([torch.zeros(1)], self._recipe)

    def _open(self) -> Objective:
        if self._objective is None:
            raise TrainError("the session is closed")
        return self._objective

    def _clip(self) -> float:
        most = self._recipe.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._trained.values(), most).item())

    def _check_finite(self, number: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._optimizer.zero_grad(set_to_none=True)
            raise TrainError(
                f"step {number}: the {what} is {value}; lower 'learning_rate'"
                f" ({rate_at(self._recipe, number, self.steps):g}), or look at the rows"
            )

    def _casting(self) -> Any:
        return cast(self._device, self._precision)

    def _computing(self, number: int) -> Any:
        return computing(self._recipe, self._device, threads=self._threads, number=number)


def make_optimizer(trained: list[Any], recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101); norms and biases do not decay."""
    groups = [
        {"params": [each for each in trained if each.ndim >= _MATRIX], "weight_decay": recipe.weight_decay},
        {"params": [each for each in trained if each.ndim < _MATRIX], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, foreach=False, fused=True)


def _check(path: Path, found: dict[str, Tensor], shapes: dict[str, torch.Size]) -> None:
    if found.keys() != shapes.keys():
        name = min(found.keys() ^ shapes.keys())
        raise TrainError(f"{path}: the checkpoint is damaged: {name!r} is of one of it and the training only")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise TrainError(f"{path}: {name!r} has shape {list(found[name].shape)}; it must be {list(shape)}")
