"""Trainings by the wire, with real workers: what comes of them, and what becomes of them when something ends."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from inferd.cli import main
from inferd.errors import present
from inferd.runtime.worker import Worker
from inferd.server import Kernel
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import training_pb2 as tp
from inferd_client import AsyncClient, claims
from inferd_client.errors import (
    BackendUnavailableError,
    InvalidFieldError,
    LimitExceededError,
    ModelExistsError,
    ModelNotFoundError,
    RequestConflictError,
    TrainingNotFoundError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [{"text": f"text {number}", "label": ("red", "blue")[number % 3 == 0]} for number in range(40)]
CLASSIFY: dict[str, Any] = {"method": "classify", "batch": 4, "epochs": 3}
FULL: dict[str, Any] = {"method": "full", "batch": 4, "epochs": 4, "checkpoint_every": 5, "evaluate_every": 6}
QUICK: dict[str, Any] = {"report_s": 0.02, "retry_s": 0.1, "idle_s": 0.3}
DEADLINE_S = 90.0
LOGGED = re.compile(r"(?m)^\d{4}-.*\n")  # lines of the kernel in this process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kernel]:
    """A kernel with the backend that trains for tests."""
    folder = tmp_path_factory.getbasetemp() / "trained"
    async with kernel_here(folder, train={**QUICK, "vain": 2, "kept": 100}) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of it, with a model whose training takes a while."""
    folder = tmp_path_factory.mktemp("models")
    async with AsyncClient(kernel.addresses[0]) as made:
        await made.create_model("slow", str(write_fake_model(folder, "slow", step_s=0.05)))
        await made.create_model("quick", str(write_fake_model(folder, "quick")))
        yield made


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended."""
    async with asyncio.timeout(DEADLINE_S):
        told = [each async for each in client.watch_training(training_id)]
    assert told[-1].finish_time.seconds
    return told[-1]


async def until(client: AsyncClient, training_id: str, **least: int) -> tp.Training:
    """A training once it is as far as that."""
    async with asyncio.timeout(DEADLINE_S):
        async for told in client.watch_training(training_id):
            assert told.state in {tp.TRAINING_STATE_QUEUED, tp.TRAINING_STATE_RUNNING}, told.error
            if all(getattr(told, name) >= value for name, value in least.items()):
                return told
    raise AssertionError("it ended before")


def worker_of(kernel: Kernel, training_id: str) -> Worker:
    """The worker that does its steps."""
    (found,) = [worker for name, worker in kernel.driver.supervisor.workers.items() if training_id in name]
    return found


async def curve(client: AsyncClient, training_id: str) -> list[tuple[int, float]]:
    return [(each.step, each.loss) async for each in client.training_steps(training_id)]


async def undisturbed(client: AsyncClient, name: str, **recipe: Any) -> tuple[list[tuple[int, float]], tp.Training]:
    """The curve of a training that nothing has disturbed, and how it ended."""
    made = await client.train(name, ROWS, recipe={**FULL, **recipe}, model="quick")
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    return await curve(client, made.training_id), found


async def test_a_classifier_is_trained_and_becomes_a_model(client: AsyncClient) -> None:
    """All steps are done in a worker of its own; what comes of them is a model that answers, with a card."""
    made = await client.train("topics", ROWS, recipe=CLASSIFY)
    assert (made.state, made.rows) == (tp.TRAINING_STATE_QUEUED, 40)
    assert not [each async for each in client.list_tasks() if each.model.startswith("training@")]
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    assert (found.steps, found.step, found.attempts) == (27, 27, 1)
    assert [each.step for each in found.judgements] == [9, 18, 27]
    assert [step for step, _ in await curve(client, made.training_id)] == [*range(1, 28)]
    last = found.judgements[-1]
    assert [len(each.labels) for each in found.judgements] == [0, 0, 2]  # of the last one, which is the best
    assert {each.label: each.support for each in last.labels} == {"blue": 2, "red": 2}
    assert sum(sum(row.rows) for row in last.confusion) == 4
    card = json.loads(found.card)
    assert card["data"]["digest"] == found.data_digest
    assert card["judged"]["figures"] == dict(last.figures)
    assert Path(found.result.path).parents[1].joinpath("card.md").read_text(encoding="utf-8").startswith("# topics")
    answer = await client.generate("topics", "hello", max_tokens=5)
    assert answer.text == "hello"


async def test_a_worker_that_dies_is_followed_by_one_that_does_the_same(kernel: Kernel, client: AsyncClient) -> None:
    """Killed between two checkpoints, a training goes on from the first; curve and result are those of peace."""
    expected, peace = await undisturbed(client, "peaceful")
    made = await client.train("killed", ROWS, recipe=FULL, model="slow")
    await until(client, made.training_id, step=8)
    os.kill(present(worker_of(kernel, made.training_id).pid), signal.SIGKILL)
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    assert found.attempts == 2
    assert await curve(client, made.training_id) == expected
    assert [(each.step, each.loss) for each in found.judgements] == [(e.step, e.loss) for e in peace.judgements]
    assert found.result.digest == peace.result.digest


async def test_it_gives_its_room_to_a_model_that_waits_and_goes_on_where_it_was(
    tmp_path: Path, client: AsyncClient
) -> None:
    """A model that does not fit beside it is loaded in a moment; once that has nothing to do the training goes on."""
    expected, peace = await undisturbed(client, "alone", evaluate_every=0)
    async with kernel_here(tmp_path, train=QUICK) as kernel, AsyncClient(kernel.addresses[0]) as other:
        base = write_fake_model(tmp_path, "base", step_s=0.05, weights_bytes=700 << 20)
        await other.create_model("base", str(base))
        await other.create_model("big", str(write_fake_model(tmp_path, "big", weights_bytes=700 << 20)))
        made = await other.train("between", ROWS, recipe={**FULL, "evaluate_every": 0}, model="base")
        before = await until(other, made.training_id, step=7)
        answer = await other.generate("big", "hello", max_tokens=5, priority="high")
        assert answer.text == "hello"
        waits = await other.get_training(made.training_id)
        assert waits.state == tp.TRAINING_STATE_QUEUED
        assert waits.checkpoint_step >= before.checkpoint_step
        assert waits.waits_for
        found = await ended(other, made.training_id)
        assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
        assert found.attempts >= 2
        assert await curve(other, made.training_id) == expected
        assert found.result.digest == peace.result.digest


async def test_it_goes_on_with_the_kernel_that_follows(tmp_path: Path, client: AsyncClient) -> None:
    """With the store of before a training goes on from its last checkpoint, and comes to the same."""
    expected, peace = await undisturbed(client, "calm")
    chosen: dict[str, Any] = {"store": {"url": f"sqlite:{tmp_path}/kept/store"}, "train": QUICK}
    model = write_fake_model(tmp_path, "slow", step_s=0.05)
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as first:
        await first.create_model("slow", str(model))
        made = await first.train("calm", ROWS, recipe=FULL, model="slow")
        before = await until(first, made.training_id, step=8)
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as second:
        found = await ended(second, made.training_id)
        assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
        assert found.attempts == before.attempts + 1
        assert await curve(second, made.training_id) == expected
        assert found.result.digest == peace.result.digest
        assert (await second.get_model("calm")).version == 1
        assert json.loads(found.card)["attempts"] == found.attempts


async def test_what_is_wrong_is_told_at_once_by_its_field(client: AsyncClient) -> None:
    """A wrong field of the recipe or row of the data is named, and nothing is made of it."""
    before = [each.training_id async for each in client.list_trainings()]
    wrong: list[tuple[Any, dict[str, Any], dict[str, Any], type[Exception], str]] = [
        (ROWS, {"batch": 0}, {}, InvalidFieldError, "spec.recipe.batch is 0; it must be from 1 to 65536"),
        (ROWS, {"schedule": "steps"}, {}, InvalidFieldError, "spec.recipe.schedule is 'steps'"),
        (ROWS, {"rank": 4}, {}, InvalidFieldError, "spec.recipe.rank is given, and method is CLASSIFY"),
        (ROWS, {"accumulate": 9}, {}, InvalidFieldError, "accumulate is 9, and batch is 4"),
        (ROWS, {"method": "full"}, {}, InvalidFieldError, "spec.model is empty, and FULL begins with a model"),
        (ROWS, {"method": "embed"}, {"model": "quick"}, BackendUnavailableError, "no READY backend trains 'embed'"),
        (ROWS, {}, {"model": "none"}, ModelNotFoundError, "none"),
        (ROWS, {}, {"device": "cuda:9"}, InvalidFieldError, "spec.device is 'cuda:9'"),
        (ROWS, {}, {"name": "quick"}, ModelExistsError, "model 'quick' exists"),
        (ROWS, {}, {"name": "../x"}, InvalidFieldError, "spec.name is '../x'"),
        ("[1]\n", {}, {}, InvalidFieldError, "row 1 of inline is no JSON object"),
        ("\n\n", {}, {}, InvalidFieldError, "inline has no rows"),
        (b'{"a": 1}\n{"\xff": 1}', {}, {}, InvalidFieldError, "row 2 of inline is no UTF-8"),
    ]
    for data, recipe, options, kind, told in wrong:
        with pytest.raises(kind, match=told):
            await client.train(**{"name": "wrong", "data": data, "recipe": {**CLASSIFY, **recipe}, **options})
    with pytest.raises(InvalidFieldError, match="row 1 of held_inline"):
        await client.train("wrong", ROWS, held="x", recipe=CLASSIFY)
    assert [each.training_id async for each in client.list_trainings()] == before


async def test_the_same_request_makes_one_training(client: AsyncClient) -> None:
    """A second call with the same id and contents is answered with the first one's training; others are refused."""
    made = await client.train("once", ROWS, recipe=CLASSIFY, request_id="one")
    again = await client.train("once", ROWS, recipe=CLASSIFY, request_id="one")
    assert again.training_id == made.training_id
    with pytest.raises(RequestConflictError):
        await client.train("once", ROWS[1:], recipe=CLASSIFY, request_id="one")
    await ended(client, made.training_id)


async def test_a_training_is_its_tenants(kernel: Kernel, client: AsyncClient) -> None:
    """Another tenant neither sees nor changes it."""
    made = await client.train("mine", ROWS, recipe=CLASSIFY)
    async with AsyncClient(kernel.addresses[0], tenant="other") as other:
        assert [each async for each in other.list_trainings()] == []
        with pytest.raises(TrainingNotFoundError):
            await other.get_training(made.training_id)
        with pytest.raises(TrainingNotFoundError):
            await other.cancel_training(made.training_id)
        with pytest.raises(TrainingNotFoundError):
            _ = [each async for each in other.training_steps(made.training_id)]
    assert (await ended(client, made.training_id)).state == tp.TRAINING_STATE_SUCCEEDED


async def test_it_is_no_model_to_clients(kernel: Kernel, client: AsyncClient) -> None:
    """No call finds a training by its name in the place of a model, nor can end it so, and no list of models has it."""
    made = await client.train("unseen", ROWS, recipe={**FULL, "epochs": 1000}, model="slow")
    await until(client, made.training_id, step=2)
    name = f"training@{made.training_id}"
    assert name in kernel.driver.views.model_names()
    async with AsyncClient(kernel.addresses[0], tenant="other") as other:
        for asked in (
            other.create_lease(claims.model(name, sequences=1), ttl_s=600),
            other.get_model(name),
            other.load_model(name),
            other.unload_model(name, force=True),
            other.delete_model(name, force=True),
            other.update_model(name, labels={"a": "b"}),
            other.create_task(name, "hello"),
            other.generate(name, "hello"),
        ):
            with pytest.raises(ModelNotFoundError):
                await asked
        assert not [each async for each in other.list_models() if "@" in each.name]
    assert (await client.cancel_training(made.training_id)).state == tp.TRAINING_STATE_CANCELLED
    assert (await client.get_training(made.training_id)).attempts == 1


async def test_one_that_is_cancelled_leaves_nothing(
    kernel: Kernel, client: AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It ends at once, its worker and its files go, and it can be deleted then, and not before."""
    made = await client.train("never", ROWS, recipe={**FULL, "epochs": 1000}, model="slow")
    await until(client, made.training_id, step=2)
    folder = tmp_path_factory.getbasetemp() / "trained" / "state" / "trainings" / made.training_id
    assert (folder / "rows.jsonl").is_file()
    with pytest.raises(InvalidFieldError, match="is RUNNING; cancel it first"):
        await client.delete_training(made.training_id)
    found = await client.cancel_training(made.training_id)
    assert found.state == tp.TRAINING_STATE_CANCELLED
    assert not folder.exists()
    assert not [name for name in kernel.driver.supervisor.workers if made.training_id in name]
    assert (await client.cancel_training(made.training_id)).state == tp.TRAINING_STATE_CANCELLED
    await client.delete_training(made.training_id)
    with pytest.raises(TrainingNotFoundError):
        await client.get_training(made.training_id)


async def test_what_cannot_go_on_fails_and_says_why(client: AsyncClient) -> None:
    """A loss that is no number, a row without its label, and workers that die again and again without a step more."""
    rows = [*ROWS, {"text": "nan", "label": "red"}]
    found = await ended(client, (await client.train("spoilt", rows, recipe=CLASSIFY)).training_id)
    assert found.state == tp.TRAINING_STATE_FAILED
    assert "the loss of step" in found.error.message
    rows = [*ROWS, {"text": "x"}]
    found = await ended(client, (await client.train("unlabelled", rows, recipe=CLASSIFY)).training_id)
    assert "row 41 has no text in its field 'label'" in found.error.message
    rows = [*ROWS, {"text": "die", "label": "red"}]
    found = await ended(client, (await client.train("deadly", rows, recipe=CLASSIFY)).training_id)
    assert found.state == tp.TRAINING_STATE_FAILED
    assert "2 workers ended one after the other without a step more" in found.error.message


async def test_what_is_best_is_kept_where_it_ends_early(client: AsyncClient) -> None:
    """With patience a training ends when its judgements get worse, and its result is as it was when it was best."""
    recipe = {**FULL, "epochs": 8, "evaluate_every": 4, "weight_decay": 1.0, "patience": 2}
    made = await client.train("early", ROWS, recipe=recipe, model="quick")
    found = await ended(client, made.training_id)
    assert found.ended_early, found.error
    losses = {each.step: each.loss for each in found.judgements}
    best = min(losses, key=lambda step: losses[step])
    assert found.step < found.steps
    assert best < found.step
    assert json.loads(found.card)["judged"]["step"] == best
    assert json.loads(Path(found.result.path).with_name("state.json").read_text(encoding="utf-8"))["step"] == best


async def test_a_model_that_is_there_gets_another_version(client: AsyncClient) -> None:
    """Where that is asked for what is trained is rolled out as a version of a model that serves."""
    first = await ended(client, (await client.train("growing", ROWS, recipe=CLASSIFY)).training_id)
    assert (first.result.kind, first.result.model, first.result.version) == ("model", "growing", 1)
    made = await client.train("growing", ROWS, recipe={**CLASSIFY, "seed": 1}, replace=True)
    second = await ended(client, made.training_id)
    assert second.result.version == 2, second.error
    model = await client.get_model("growing")
    assert model.source == second.result.path
    await client.delete_training(second.training_id)
    assert await asyncio.to_thread(Path(second.result.path).exists)


async def test_bounds_are_named(tmp_path: Path) -> None:
    """Data beyond `train.data_bytes`, trainings beyond `train.kept`, and a folder beyond `train.disk_bytes`."""
    bounds = {**QUICK, "data_bytes": 4096, "kept": 1, "disk_bytes": 1 << 20}
    async with kernel_here(tmp_path, train=bounds) as kernel, AsyncClient(kernel.addresses[0]) as client:
        with pytest.raises(LimitExceededError, match=r"train\.data_bytes") as refused:
            await client.train("large", [{"text": "x" * 5000, "label": "a"}], recipe=CLASSIFY)
        assert refused.value.metadata["limit"] == "4096"
        await client.train("one", ROWS, recipe=CLASSIFY)
        with pytest.raises(LimitExceededError, match=r"train\.kept is 1"):
            await client.train("two", ROWS, recipe=CLASSIFY)


@pytest.mark.usefixtures("client")
async def test_the_command_line_trains_and_tells(kernel: Kernel, tmp_path: Path) -> None:
    """A recipe in TOML and a file of rows make a model; lists, curves, cards and JSON tell of it."""
    recipe, data = tmp_path / "recipe.toml", tmp_path / "rows.jsonl"
    recipe.write_text('method = "classify"\nname = "told"\nbatch = 4\nepochs = 3\n', encoding="utf-8")
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    async def run(*words: str, exit_code: int = 0) -> str:
        chosen = [*words, "--address", kernel.addresses[0]]
        result = await asyncio.to_thread(CliRunner().invoke, main.app, chosen)
        assert result.exit_code == exit_code, result.output
        return LOGGED.sub("", result.output)

    said = await run("train", str(recipe), "--data", str(data), "--set", "epochs=2")
    assert "told, classify, succeeded, step 18 of 18" in said
    assert "model told, version 1" in said
    listed = json.loads(await run("trainings", "ls", "-o", "json"))["trainings"]
    (made,) = [each for each in listed if each["spec"]["name"] == "told"]
    assert made["spec"]["recipe"]["epochs"] == 2
    assert "told" in await run("trainings", "ls")
    shown = json.loads(await run("trainings", "show", made["training_id"], "--curve", "-o", "json"))
    assert len(shown["curve"]) == 18
    assert json.loads(await run("trainings", "show", made["training_id"], "--card"))["name"] == "told"
    assert "precision" in (await run("trainings", "watch", made["training_id"])).lower()
    said = await run(
        "train", "--data", str(data), "--name", "x", "--method", "classify", "--set", "epoch=2", exit_code=1
    )
    assert "recipe has no 'epoch'; did you mean 'epochs'?" in said
    again = ("train", "--method", "classify", "--name", "told")
    assert "(--replace)" in await run(*again, "--data", str(data), exit_code=1)
    assert "--model is empty" in await run("train", "--method", "lora", "--name", "x", "--data", str(data), exit_code=1)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    assert f"{empty} has no rows" in await run(*again, "--replace", "--data", str(empty), exit_code=1)
    assert "nosuch.jsonl cannot be read" in await run(*again, "--data", "nosuch.jsonl", "-o", "json", exit_code=2)
    detached = await run(
        *("train", "--data", str(data), "--name", "left", "--method", "full", "--model", "slow"),
        *("--set", "epochs=1000", "--detach"),
    )
    assert "cancelled" in await run("trainings", "cancel", detached.strip())
    assert "is deleted" in await run("trainings", "rm", detached.strip())
