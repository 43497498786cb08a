"""Several workers train one model with torch: the same rows in the same order, the same losses but for rounding."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from inferd.core.training import TrainingMethod
from inferd.plugin import TrainError, TrainingRecipe, TrainRequest
from inferd.plugin.ranks import RankLostError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from tiny_networks import write_network  # noqa: E402 - it needs both

from inferd_torch.backend import TorchBackend  # noqa: E402

WAIT_S = 60.0
HERE = "127.0.0.1"
RECIPE = TrainingRecipe(
    method=TrainingMethod.LORA, epochs=2, batch=4, learning_rate=0.01, most_tokens=24, held=0.2, seed=7, ranks=3
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights."""
    folder = tmp_path_factory.mktemp("model")
    write_network("llama", folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of several lengths; the last step of an epoch has fewer than others."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "the cat sat on the mat again"[: 5 + n]}) + "\n" for n in range(20)))
    return path


def request(model: Path, rows: Path, recipe: TrainingRecipe) -> TrainRequest:
    return TrainRequest(
        path=model, rows=rows, held=None, recipe=recipe, device="cpu:0", capacity_bytes=4 << 30, cores=1
    )


def train(model: Path, rows: Path, recipe: TrainingRecipe) -> Any:
    return TorchBackend().train(request(model, rows, recipe), lambda _: None)


def finish(session: Any, done: int = 0) -> list[float]:
    return [session.step().loss for _ in range(done, session.steps)]


def follower(model: Path, rows: Path, recipe: TrainingRecipe) -> Any:
    return TorchBackend().follow(request(model, rows, recipe), lambda _: None)


def led(model: Path, rows: Path, followers: Sequence[Any], ends: type[Exception]) -> tuple[Any, list[threading.Thread]]:
    """A session that leads these, each in a thread in the place of a worker, which ends so."""
    session, ranks = train(model, rows, RECIPE), len(followers) + 1
    meeting = session.listen(ranks, HERE, WAIT_S)

    def run(rank: int, each: Any) -> None:
        with pytest.raises(ends):
            each.follow(rank, ranks, meeting, WAIT_S)

    threads = [threading.Thread(target=run, args=given, daemon=True) for given in enumerate(followers, 1)]
    for each in threads:
        each.start()
    session.gather()
    return session, threads


def ended(threads: Sequence[threading.Thread]) -> bool:
    for each in threads:
        each.join(WAIT_S)
    return not any(each.is_alive() for each in threads)


def test_losses_of_three_workers_are_those_of_one(model: Path, rows: Path, tmp_path: Path) -> None:
    """Each step has the rows that it has with one worker, and the gradient of all of them; only roundings differ."""
    alone = train(model, rows, RECIPE)
    wanted = finish(alone)
    session, threads = led(model, rows, [follower(model, rows, RECIPE) for _ in range(2)], RankLostError)
    assert finish(session) == pytest.approx(wanted, rel=1e-4)
    assert session.evaluate().loss == pytest.approx(alone.evaluate().loss, rel=1e-4)
    (tmp_path / "led").mkdir()
    session.save(tmp_path / "led")
    session.close()
    alone.restore(tmp_path / "led")  # how many workers did the steps is no matter to who goes on
    assert ended(threads)


def test_a_worker_that_is_lost_takes_nothing_along(model: Path, rows: Path, tmp_path: Path) -> None:
    """The step that it spoils has changed nothing: what is saved then comes to the same losses, alone."""
    wanted = finish(train(model, rows, RECIPE))
    leaves = follower(model, rows, RECIPE)
    read, count = leaves._objective.read, 0

    def fail(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count > 6:  # of its three steps: it has two rows of each
            raise TrainError("it leaves")
        return read(*given)

    leaves._objective.read = fail
    session, threads = led(model, rows, [leaves], TrainError)
    told = [session.step().loss for _ in range(3)]
    with pytest.raises(RankLostError, match="one is lost"):
        session.step()
    assert ended(threads)
    session.save(tmp_path)
    session.close()
    other = train(model, rows, RECIPE)
    other.restore(tmp_path)
    assert [*told, *finish(other, 3)] == pytest.approx(wanted, rel=1e-4)


def test_who_cannot_be_reached_is_told(model: Path, rows: Path) -> None:
    """An address that this machine does not have is named, and nobody comes who is not awaited."""
    session = train(model, rows, RECIPE)
    with pytest.raises(TrainError, match=r"192\.0\.2\.1.*train\.address"):
        session.listen(2, "192.0.2.1", WAIT_S)
    with pytest.raises(TrainError, match="nobody is awaited"):
        session.gather()
    with pytest.raises(RankLostError, match="rank 0 is not at"):
        follower(model, rows, RECIPE).follow(1, 2, f"{HERE} 1 word", 0.2)


def raised(doing: Callable[[], object]) -> str:
    """What a rank that is lost is told by, where that comes before a deadline: else it would be waited for a week."""
    found: list[str] = []

    def run() -> None:
        try:
            doing()
        except RankLostError as lost:
            found.append(str(lost))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ended([thread])
    return found[0]


def test_who_does_not_come_is_awaited_as_long_as_is_set(model: Path, rows: Path) -> None:
    """The one that leads waits `join_s` for the others, and says that it was so long."""
    session = train(model, rows, RECIPE)
    session.listen(2, HERE, 0.5)
    assert "one did not come within 0.5 s (train.join_s)" in raised(session.gather)


def test_a_stranger_takes_nobodys_place(model: Path, rows: Path) -> None:
    """Who reaches the port and does not know the word of the training is told no rows, and has the others end."""
    session = train(model, rows, RECIPE)
    address, port, word = session.listen(2, HERE, WAIT_S).split(" ")
    stranger = follower(model, rows, RECIPE)
    told: list[str] = []
    meeting = f"{address} {port} {word[::-1]}"
    thread = threading.Thread(
        target=lambda: told.append(raised(lambda: stranger.follow(1, 2, meeting, WAIT_S))), daemon=True
    )
    thread.start()
    assert "rank 1 does not know the word of this training" in raised(session.gather)
    assert ended([thread])
    assert "rank 0 does not know the word of this training" in told[0]
