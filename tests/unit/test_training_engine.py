"""The engine of trainings: its cadence, early ends, checkpoints, and what is gone on from."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferd.core.resources import HOST_DEVICE
from inferd.core.training import ORDER, ROWS, Order, TrainingMethod, TrainingRecipe, read_order, write_order
from inferd.engine.function.call import CallResult
from inferd.engine.training.backend import LoadedTraining, TrainingLoader
from inferd.engine.training.cadence import epoch_ends, is_told
from inferd.engine.training.checkpoints import BEST, Checkpoints, Progress, read_progress
from inferd.engine.training.drives import Drive
from inferd.engine.training.loop import TrainingLoop
from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.training import TrainStep

LOADER = "inferd.testing.fake:FakeBackend"
WAIT_S = 60.0


def write(folder: Path, *, rows: int = 40, texts: tuple[str, ...] = (), **recipe: Any) -> LoadRequest:
    """The folder of a training, and the request to load it."""
    folder.mkdir(exist_ok=True)
    chosen = TrainingRecipe(**{"method": TrainingMethod.CLASSIFY, "batch": 4, "held": 0.1, **recipe})
    (folder / ORDER).write_bytes(write_order(Order(loader=LOADER, base="", recipe=chosen)))
    lines = [{"text": text, "label": "a"} for text in (*(f"text {n}" for n in range(rows - len(texts))), *texts)]
    (folder / ROWS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return LoadRequest(path=folder, device=HOST_DEVICE, settings={}, capacity_bytes=1 << 30)


def load(request: LoadRequest) -> LoadedTraining:
    return TrainingLoader().load(request, lambda _: None)


def note(folder: Path) -> None:
    """Stands for what a session saves."""
    (folder / "x").write_text("1", encoding="utf-8")


class Heard:
    """What a loop tells, and when it has ended.

    Args:
        loaded: The training.
        until: Called with each thing that is told; where it says so the loop is to stop.
        drive: Bounds, in place of these.
    """

    def __init__(self, loaded: LoadedTraining, until: Callable[[str, Any], bool] | None = None, **drive: Any) -> None:
        self.told: list[tuple[str, Any]] = []
        self.ends: list[Any] = []
        self._until = until
        self._loop = TrainingLoop(loaded, self._hear)
        chosen = {"checkpoint_s": 1e9, "report_s": 0.0, "curve_steps": 1000, "disk_bytes": 1 << 30, **drive}
        self._loop.submit(Drive(handle=1, **chosen))
        thread = threading.Thread(target=self._loop.run)
        thread.start()
        thread.join(WAIT_S)
        assert not thread.is_alive()

    def _hear(self, result: CallResult) -> None:
        for _, piece in result.pieces:
            for what, said in json.loads(piece).items():
                self.told.append((what, said))
                if self._until is not None and self._until(what, said):
                    self._loop.stop()
        if result.ended:
            self.ends += result.ended
            self._loop.stop()

    def of(self, what: str) -> list[Any]:
        """What was told of a kind."""
        return [said for each, said in self.told if each == what]

    @property
    def curve(self) -> dict[int, float]:
        """The losses by step, as the last report of each says."""
        begun = [point for said in self.of("begun") for point in said["points"]]
        stepped = [point for said in self.of("stepped") for point in said["points"]]
        return {step: loss for step, loss, _, _ in (*begun, *stepped)}


@pytest.mark.parametrize(
    ("steps", "epochs", "ends"),
    [(27, 3, {9, 18, 27}), (10, 1, {10}), (10, 0.5, {10}), (10, 2.5, {4, 8, 10}), (1, 3, {1})],
)
def test_epochs_end_where_their_rows_do(steps: int, epochs: float, ends: set[int]) -> None:
    """Each whole epoch has a step behind which it has ended, and so has the whole."""
    assert epoch_ends(steps, epochs) == ends


def test_a_curve_has_its_ends_and_is_bounded() -> None:
    """The first and the last step are told, and between them no more than so many, evenly spread."""
    told = [step for step in range(1, 10_001) if is_told(step, 10_000, 100)]
    assert (told[0], told[-1]) == (1, 10_000)
    assert len(told) <= 102
    assert [step for step in range(1, 51) if is_told(step, 50, 100)] == [*range(1, 51)]


def test_an_order_is_read_as_it_was_written() -> None:
    """All of a recipe comes through the folder of a training."""
    recipe = TrainingRecipe(method=TrainingMethod.LORA, epochs=2.5, targets=("q", "v"), precision="bfloat16")
    order = Order(loader=LOADER, base="/m", recipe=recipe, cores=2, nice=5, is_held=True)
    assert read_order(write_order(order)) == order


def test_judgements_and_checkpoints_come_when_the_recipe_says(tmp_path: Path) -> None:
    """Judged every fourth step and at the end, saved every fifth and at the end; two checkpoints are kept."""
    heard = Heard(load(write(tmp_path, epochs=2, evaluate_every=4, checkpoint_every=5)))
    assert [each.error for each in heard.ends] == [None]
    assert [said["step"] for said in heard.of("judged")] == [4, 8, 12, 16, 18]
    assert [said["step"] for said in heard.of("saved")] == [5, 10, 15, 18]
    assert [int(each.name) for each in Checkpoints(tmp_path / "checkpoints").all()] == [18, 15]
    assert [*heard.curve] == [*range(1, 19)]
    (exported,) = heard.of("exported")
    assert exported["kind"] == "model"
    assert (tmp_path / "result" / "model.fake").is_file()


def test_it_is_judged_at_the_end_of_each_epoch(tmp_path: Path) -> None:
    """Where the recipe says no steps it is judged behind each epoch."""
    heard = Heard(load(write(tmp_path, epochs=2)))
    assert [said["step"] for said in heard.of("judged")] == [9, 18]


def test_one_that_is_stopped_is_saved_and_goes_on_exactly(tmp_path: Path) -> None:
    """Stopped and loaded anew at each eighth step, a training tells the curve and the result of an undisturbed one."""
    peace = Heard(load(write(tmp_path / "a", epochs=4, evaluate_every=7)))
    request = write(tmp_path / "b", epochs=4, evaluate_every=7)
    curve: dict[int, float] = {}
    judged: dict[int, float] = {}
    attempts = 0
    for _ in range(10):
        attempts += 1
        heard = Heard(load(request), lambda what, said: what == "stepped" and said["step"] % 8 == 0)
        curve |= heard.curve
        judged |= {said["step"]: said["loss"] for said in heard.of("judged")}
        if heard.ends:
            break
    assert attempts > 2
    assert curve == peace.curve
    assert judged == {said["step"]: said["loss"] for said in peace.of("judged")}
    assert heard.of("exported")[0]["digest"] == peace.of("exported")[0]["digest"]
    tokens = [said["tokens"] for said in heard.of("stepped")]
    assert tokens[-1] == peace.of("stepped")[-1]["tokens"]


def test_what_was_told_to_nobody_is_told_by_the_next_worker(tmp_path: Path) -> None:
    """A checkpoint has the curve and the judgements until there, so that nothing of them is lost with a worker."""
    request = write(tmp_path, epochs=2, evaluate_every=4)
    first = Heard(load(request), lambda what, said: what == "judged" and said["step"] == 8, report_s=1e9)
    second = Heard(load(request))
    (begun,) = second.of("begun")
    assert [step for step, *_ in begun["points"]] == [*range(1, 9)]
    assert [each["step"] for each in begun["judgements"]] == [4, 8]
    assert second.curve.items() >= first.curve.items()


def test_labels_are_told_of_the_last_judgement_and_the_best(tmp_path: Path) -> None:
    """What was found of each label is kept of two judgements, so that a thousand labels fit into a message."""
    request = write(tmp_path, epochs=2, evaluate_every=2)
    Heard(load(request), lambda what, said: what == "judged" and said["step"] == 12)
    (begun,) = Heard(load(request)).of("begun")
    known = [each["step"] for each in begun["judgements"] if each["labels"]]
    assert known[-1] == 12
    assert len(known) <= 2
    assert [each["step"] for each in begun["judgements"]] == [2, 4, 6, 8, 10, 12]


def test_a_checkpoint_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    """One whose writing is cut short is none, and goes with the next worker; those of before stay."""
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.write(Progress(step=3), note)

    def cut_short(folder: Path) -> None:
        (folder / "x").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        kept.write(Progress(step=6), cut_short)
    assert [int(each.name) for each in kept.all()] == [3]
    again = Checkpoints(tmp_path / "checkpoints")
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["0000000003"]
    assert read_progress(again.all()[0]).step == 3


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files and its folders are synchronised, then it is renamed, then the folder of that name is synchronised."""
    done: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        done.append(f"renamed {target.name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    Checkpoints(tmp_path / "c").write(Progress(step=1), note)
    assert done == [*("x", "session"), *("progress.json", ".new0000000001"), "renamed 0000000001", "c"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    """What cannot be restored is passed over; the training goes on from the one before, or from the beginning."""
    request = write(tmp_path, epochs=2, checkpoint_every=5)
    peace = Heard(load(request))
    newest, before = Checkpoints(tmp_path / "checkpoints").all()
    (newest / "session" / "state.json").write_text("{", encoding="utf-8")
    assert load(request).progress.step == int(before.name) == 15
    (before / "progress.json").write_text("[]", encoding="utf-8")
    loaded = load(request)
    assert loaded.progress.step == 0
    assert Heard(loaded).curve == peace.curve


def test_one_that_gets_worse_ends_early_and_gives_what_was_best(tmp_path: Path) -> None:
    """After so many judgements without a better one it ends; the result is of the step with the best one."""
    recipe: dict[str, Any] = {"epochs": 4, "evaluate_every": 2, "weight_decay": 1.0, "patience": 2}
    heard = Heard(load(write(tmp_path, **recipe)))
    losses = {said["step"]: said["loss"] for said in heard.of("judged")}
    best = min(losses, key=lambda step: losses[step])
    (exported,) = heard.of("exported")
    assert exported["early"]
    assert exported["step"] == exported["judged"]["step"] == best
    assert [*losses][-2:] == [best + 2, best + 4]
    state = json.loads((tmp_path / "result" / "state.json").read_text(encoding="utf-8"))
    assert state["step"] == best
    assert [each.name for each in (tmp_path / "checkpoints").glob(f"{BEST}*")] == [f"{BEST}{best:010}"]


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    """The task fails with the step and what may help, and nothing of that is saved."""
    heard = Heard(load(write(tmp_path, texts=("nan",))))
    (end,) = heard.ends
    assert end.error.reason == "TRAINING_FAILED"
    assert "take a lower learning_rate" in end.error.message
    assert not Checkpoints(tmp_path / "checkpoints").all()


def test_a_session_that_counts_wrongly_is_told_so(tmp_path: Path) -> None:
    """A step of another number than the next is a defect of the backend, and is named with both numbers."""
    loaded = load(write(tmp_path))
    loaded.session.step = lambda: TrainStep(step=7, loss=1.0, learning_rate=0.1, tokens=1)  # type: ignore[method-assign]
    (end,) = Heard(loaded).ends
    assert "TrainSession.step gave step 7; it must give 1" in end.error.message


@pytest.mark.parametrize(("number", "reason"), [(28, "DISK_FULL"), (122, "DISK_FULL"), (13, "TRAINING_FAILED")])
def test_a_full_disk_is_told_as_one(tmp_path: Path, number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no checkpoint is no fault of the training, which goes on once there is room."""

    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(Checkpoints, "write", refuse)
    (end,) = Heard(load(write(tmp_path))).ends
    assert end.error.reason == reason


def test_a_folder_that_grows_too_large_ends_it(tmp_path: Path) -> None:
    """Its bound is named with both numbers."""
    (end,) = Heard(load(write(tmp_path)), disk_bytes=100).ends
    assert end.error.metadata["bound"] == "train.disk_bytes"
    assert int(end.error.metadata["value"]) > 100


def test_what_a_recipe_or_a_row_does_not_permit_is_told_at_the_load(tmp_path: Path) -> None:
    """A row without its label is named, and so is an order that is none."""
    request = write(tmp_path)
    with (tmp_path / ROWS).open("a", encoding="utf-8") as file:
        file.write('{"text": "x"}\n')
    with pytest.raises(LoadError, match="row 41 has no text in its field 'label'"):
        load(request)
    (tmp_path / ORDER).write_text("{}", encoding="utf-8")
    with pytest.raises(LoadError, match="is no order of a training"):
        TrainingLoader().measure(request)
