"""Rows of datasets as the input of pipelines and evaluations, by real workers: named, and held while they are read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import evaluation_pb2 as ep
from inferd_client import AsyncClient, Client, data
from inferd_client.data import arrow
from inferd_client.errors import (
    DatasetHeldError,
    DatasetNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    PermissionDeniedError,
    RequestConflictError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")
MODULES = ("inferd.testing.functions", "inferd_functions.plugin", "inferd_evaluation.plugin")
LOUD = {
    "name": "loud",
    "steps": [
        {
            "name": "each",
            "map": {"over": "{input}", "in_flight": 2},
            "call": {"function": "repeat", "version": 1, "input": {"text": "{item.text}", "case": "upper"}},
        }
    ],
}
NAPS: dict[str, Any] = {
    "steps": [{"name": "nap", "map": "{input}", "call": {"function": "nap", "input": {"seconds": "{item.seconds}"}}}]
}
ROWS = [{"text": f"schön {n}\u2028\n", "n": n} for n in range(7)]
LINES = [{"prompt": "aaaa", "choices": ["aaa", "zzz"], "answer": n % 2} for n in range(6)]


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    functions = {"modules": MODULES, "packages": (), "calls": 2}
    return {"functions": functions, "store": {"url": f"sqlite:{folder}/kept"}, **more}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel that keeps what it has, with a model."""
    folder = tmp_path_factory.mktemp("served")
    bounds = {"pipelines": {"items": 20}, "evaluate": {"data_bytes": 1024}}
    async with kernel_here(folder, **settings(folder, **bounds)) as kernel, AsyncClient(kernel.addresses[0]) as made:
        await made.create_model("fake", str(write_fake_model(folder, "fake")))
        yield made


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "PART_ROWS", 3)


async def beside(client: AsyncClient, do: Callable[[Client], T]) -> T:
    """What a synchronous client does, beside the loop of the kernel."""

    def run() -> T:
        with Client(client.address) as made:
            return do(made)

    return await asyncio.to_thread(run)


async def test_a_pipeline_is_run_over_the_rows_of_a_dataset(client: AsyncClient) -> None:
    """Each row is an item, over the borders of parts; the run says which data it had, whatever has come since."""
    first = await beside(client, lambda made: data.add(made, "rows", ROWS, origin="test"))
    assert first.parts == 3
    run = await client.create_pipeline_run(LOUD, dataset="rows")
    await beside(client, lambda made: data.add(made, "rows", ROWS[:1], origin="newer"))
    async for _ in client.watch_pipeline_run(run.run_id):
        pass
    wanted = [row["text"].upper() for row in ROWS]  # type: ignore[attr-defined] # they are texts
    assert [item async for item in client.read_pipeline_output(run.run_id)] == wanted
    ended = await client.get_pipeline_run(run.run_id)
    assert (ended.dataset.name, ended.dataset.version, ended.dataset.digest) == ("rows", 1, first.digest)
    assert await client.run_pipeline(LOUD, dataset="rows@2") == [wanted[0]]
    batched = {"steps": [{**LOUD["steps"][0], "map": {"over": "{input}", "batch": 4}}]}  # type: ignore[dict-item]
    batched["steps"][0]["call"] = {"function": "repeat", "version": 1, "input": {"text": "{item[3].n}{item[0].n}"}}
    with pytest.raises(InvalidFieldError, match=r"there is no \[3\]"):
        await client.run_pipeline(batched, dataset="rows@1")
    assert not [each async for each in client.list_tasks() if "inferd.dataset" in each.labels]


async def test_a_dataset_stays_while_a_run_reads_it(tmp_path: Path) -> None:
    """It is not deleted while a run has not ended, with the next kernel either, and is free when that has."""
    rows = [{"seconds": 0.0}, {"seconds": 600.0}]
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as one:
        await beside(one, lambda made: data.add(made, "naps", rows, origin="test"))
        run = await one.create_pipeline_run(NAPS, dataset="naps")
        async for event in one.watch_pipeline_run(run.run_id):
            if event.HasField("item"):
                break
        with pytest.raises(DatasetHeldError, match=f"pipeline run {run.run_id}"):
            await one.delete_dataset("naps")
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as two:
        with pytest.raises(DatasetHeldError) as held:
            await two.delete_dataset("naps", version=1)
        assert held.value.metadata["dataset"] == "naps@1"
        await two.cancel_pipeline_run(run.run_id)
        assert await two.delete_dataset("naps") == [1]
        events = [each async for each in two.watch_pipeline_run(run.run_id)]
        assert sum(each.HasField("item") for each in events) == 1


async def test_a_model_is_evaluated_by_the_rows_of_a_dataset(client: AsyncClient) -> None:
    """Rows are its lines; it tells which data it had, and needs the dataset no more once it is made."""
    source = await beside(client, lambda made: data.add(made, "choices", LINES, origin="test"))
    made = await client.evaluate_model("fake", kind="choice", separator="", dataset="choices@1")
    assert await client.delete_dataset("choices") == [1]
    told = [each async for each in client.watch_evaluation(made.evaluation_id)][-1]
    assert (told.state, told.done_lines) == (ep.EVALUATION_STATE_SUCCEEDED, len(LINES))
    assert (told.dataset.name, told.dataset.version, told.dataset.digest) == ("choices", 1, source.digest)
    lines = [each async for each in client.evaluation_lines(made.evaluation_id)]
    assert [json.loads(each.data) for each in lines] == LINES


async def test_the_same_request_is_one_evaluation_whatever_became_of_its_dataset(client: AsyncClient) -> None:
    """A call that is repeated finds what it made: where a newer version has come, and where the dataset is gone."""
    asked: dict[str, Any] = {"kind": "choice", "separator": "", "dataset": "repeated", "request_id": "repeated-1"}
    await beside(client, lambda made: data.add(made, "repeated", LINES, origin="test"))
    first = await client.evaluate_model("fake", **asked)
    await beside(client, lambda made: data.add(made, "repeated", LINES[:2], origin="newer"))
    assert (await client.evaluate_model("fake", **asked)).evaluation_id == first.evaluation_id
    await client.delete_dataset("repeated")
    assert (await client.evaluate_model("fake", **asked)).evaluation_id == first.evaluation_id
    with pytest.raises(RequestConflictError):
        await client.evaluate_model("fake", **{**asked, "dataset": "repeated@1"})


async def test_what_cannot_be_an_input_is_refused(client: AsyncClient, tmp_path: Path) -> None:
    """One that there is not, one with too many rows or bytes, and one that the rules do not let the caller read."""
    await beside(client, lambda made: data.add(made, "many", [{"n": n} for n in range(21)], origin="test"))
    await beside(client, lambda made: data.add(made, "wide", [{"prompt": "x" * 2000}], origin="test"))
    with pytest.raises(LimitExceededError, match=r"pipelines\.items is 20"):
        await client.create_pipeline_run(LOUD, dataset="many")
    with pytest.raises(LimitExceededError, match=r"1024 bytes as JSON, which is evaluate\.data_bytes"):
        await client.evaluate_model("fake", kind="generation", dataset="wide")
    for name in ("manny", "many@2"):
        with pytest.raises(DatasetNotFoundError):
            await client.create_pipeline_run(LOUD, dataset=name)
        with pytest.raises(DatasetNotFoundError):
            await client.evaluate_model("fake", kind="generation", dataset=name)
    with pytest.raises(InvalidFieldError) as wrong:
        await client.create_pipeline_run(LOUD, dataset="../x")
    assert wrong.value.field == "dataset.name"
    with pytest.raises(ValueError, match="one of blob and dataset"):
        await client.create_pipeline_run(LOUD, blob="sha256:00", dataset="many")
    denied = {"rules": [{"who": "*", "effect": "deny", "verbs": ["read"], "kinds": ["dataset"]}]}
    async with (
        kernel_here(tmp_path, **settings(tmp_path, auth=denied)) as kernel,
        AsyncClient(kernel.addresses[0]) as other,
    ):
        await other.create_model("fake", str(write_fake_model(tmp_path, "fake")))
        with pytest.raises(PermissionDeniedError, match="may not read dataset"):
            await other.create_pipeline_run(LOUD, dataset="many")
        with pytest.raises(PermissionDeniedError, match="may not read dataset"):
            await other.evaluate_model("fake", kind="generation", dataset="many")


async def test_the_command_line(client: AsyncClient, tmp_path: Path) -> None:
    """`--data NAME@N` of `pipelines run` and `evaluate`; functions of the kernel's own are not in the list."""
    await beside(client, lambda made: data.add(made, "said", ROWS[:2], origin="test"))
    labelled = [{"prompt": "x", "label": "bad"}, {"prompt": "x", "label": "good"}]
    await beside(client, lambda made: data.add(made, "labels", labelled, origin="test"))
    file = tmp_path / "loud.json"
    file.write_text(json.dumps(LOUD))

    async def inferd(*words: str) -> Any:
        said: Result = await asyncio.to_thread(
            CliRunner().invoke, app, [*words, "-o", "json", "--address", client.address]
        )
        assert said.exit_code == 0, said.output
        return json.JSONDecoder().raw_decode(said.stdout[said.stdout.index("{") :])[0]

    ran = await inferd("pipelines", "run", str(file), "--data", "said@1")
    assert ran["value"] == [row["text"].upper() for row in ROWS[:2]]  # type: ignore[attr-defined] # they are texts
    assert ran["dataset"]["version"] == 1
    found = await inferd("evaluate", "fake", "--data", "labels", "--task", "classification")
    assert [each["label"] for each in found["labels"]] == ["bad", "good"]
    names = {each["name"] for each in (await inferd("functions", "list"))["functions"]}
    every = {each["name"] for each in (await inferd("functions", "list", "--all"))["functions"]}
    assert {"dataset_lines", "evaluation_items"} <= every - names
    assert {"clean", "repeat"} <= names
