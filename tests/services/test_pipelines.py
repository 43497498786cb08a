"""Pipelines by the wire, with real workers: what they give, over the end of a kernel, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from inferd.cli import main
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import pipeline_pb2 as pp
from inferd_client import AsyncClient
from inferd_client.errors import (
    BlobNotFoundError,
    FunctionNotFoundError,
    InvalidFieldError,
    ModelNotFoundError,
    PipelineRunNotFoundError,
    RequestConflictError,
    TaskExpiredError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOUD = {
    "name": "loud",
    "steps": [
        {
            "name": "each",
            "map": {"over": "{input}", "in_flight": 2},
            "call": {"function": "repeat", "version": 1, "input": {"text": "{item}", "case": "upper"}},
        },
        {"name": "all", "call": {"function": "repeat", "input": {"text": "{each | join}"}}},
    ],
}
NAP: dict[str, Any] = {"steps": [{"name": "nap", "call": {"function": "nap", "input": {"seconds": "{input}"}}}]}


def settings(folder: Path) -> dict[str, Any]:
    functions = {"modules": ("inferd.testing.functions",), "packages": (), "calls": 2}
    return {"functions": functions, "store": {"url": f"sqlite:{folder / 'store.db'}"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with a store and the functions of tests."""
    folder = tmp_path_factory.mktemp("served")
    async with kernel_here(folder, **settings(folder)) as kernel, AsyncClient(kernel.addresses[0]) as made:
        yield made


async def test_a_pipeline_gives_what_its_steps_make(client: AsyncClient) -> None:
    """A run is carried out by tasks of the caller, told event by event, and its output and steps can be read."""
    run = await client.create_pipeline_run(LOUD, ["a", "b"], labels={"who": "me"}, request_id="once")
    events = [event async for event in client.watch_pipeline_run(run.run_id)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].finished.state == pp.PIPELINE_STATE_SUCCEEDED
    assert [event async for event in client.watch_pipeline_run(run.run_id, after_sequence=3)] == events[3:]
    ended = await client.get_pipeline_run(run.run_id)
    assert json.loads(ended.output.json) == "A\n\nB!"
    assert ended.usage.tasks == 3
    assert [item async for item in client.read_pipeline_output(run.run_id, step="each")] == ["A", "B"]
    task = await anext(client.list_tasks())
    assert task.labels["inferd.pipeline"] == f"{run.run_id}/all"
    assert task.labels["who"] == "me"
    again = await client.create_pipeline_run(LOUD, ["a", "b"], labels={"who": "me"}, request_id="once")
    assert again.run_id == run.run_id
    with pytest.raises(RequestConflictError):
        await client.create_pipeline_run(LOUD, ["a"], request_id="once")


async def test_a_blob_is_an_input(client: AsyncClient) -> None:
    """Lines of a blob are a list that is read as it is needed; the blob stays as long as the run."""
    blob = await client.put_blob(b"one\ntwo\n\xc3\xa4")
    steps = {"steps": LOUD["steps"][:1]}
    assert await client.run_pipeline(steps, blob=blob.digest, form="lines") == ["ONE", "TWO", "Ä"]
    await client.delete_blob(blob.digest)
    with pytest.raises(BlobNotFoundError):
        await client.run_pipeline(steps, blob=blob.digest, form="lines")


async def test_an_output_that_is_a_blob_can_be_read(client: AsyncClient) -> None:
    """What a run says that it gave is what is read of it, where that is its input too, or that its blob is gone."""
    text = "word " * 20_000
    blob = await client.put_blob(text.encode())
    steps = {"steps": [{"name": "p", "branch": [{"value": "{input}"}]}]}
    run = await client.create_pipeline_run(steps, blob=blob.digest, form="text")
    async for _ in client.watch_pipeline_run(run.run_id):
        pass
    assert [item async for item in client.read_pipeline_output(run.run_id)] == [text]
    await client.delete_blob(blob.digest)
    with pytest.raises(BlobNotFoundError):
        await anext(client.read_pipeline_output(run.run_id))


async def test_what_cannot_run_is_refused_before_it_does(client: AsyncClient) -> None:
    """A function or a model that there is not, a parameter or a type that does not fit: named with its step."""
    with pytest.raises(FunctionNotFoundError, match=r"step 'a': .*did you mean 'repeat'") as refused:
        await client.create_pipeline_run({"steps": [{"name": "a", "call": {"function": "repaet"}}]})
    assert refused.value.field == "pipeline.steps[0].task.model"
    with pytest.raises(ModelNotFoundError):
        await client.create_pipeline_run({"steps": [{"name": "a", "generate": {"model": "none", "prompt": "x"}}]})
    wrong = {"steps": [{"name": "a", "call": {"function": "repeat", "input": {"txet": "x"}}}]}
    with pytest.raises(InvalidFieldError, match=r"lacks 'text'"):
        await client.check_pipeline(wrong)
    with pytest.raises(PipelineRunNotFoundError, match="`inferd pipelines list` lists"):
        await client.get_pipeline_run("none")


async def test_what_fails_says_where(client: AsyncClient) -> None:
    """A run that fails names the step and the item; one that takes too long expires, and one that is ended is ended."""
    refuse = {"steps": [{"name": "a", "map": "{input}", "call": {"function": "refuse", "input": {"why": "{item}"}}}]}
    with pytest.raises(InvalidFieldError, match=r"step 'a', item 0: .*not today") as failed:
        await client.run_pipeline(refuse, ["not today"])
    assert failed.value.metadata["step"] == "a"
    assert (await client.get_task(failed.value.metadata["task_id"])).labels["inferd.function"] == "refuse@1"
    with pytest.raises(TaskExpiredError):
        await client.run_pipeline(NAP, 600, ttl_s=0.2)
    slow = {"steps": [{**NAP["steps"][0], "timeout_s": 0.2}]}
    with pytest.raises(TaskExpiredError, match="step 'nap'"):
        await client.run_pipeline(slow, 600)
    run = await client.create_pipeline_run(NAP, 600)
    assert (await client.cancel_pipeline_run(run.run_id)).state == pp.PIPELINE_STATE_CANCELLED
    events = [event async for event in client.watch_pipeline_run(run.run_id)]
    assert events[-1].finished.state == pp.PIPELINE_STATE_CANCELLED


async def test_only_a_run_that_has_ended_is_deleted(tmp_path: Path) -> None:
    """One that goes on is refused; one that has ended is gone, for the next kernel too; its tasks are not."""
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as client:
        run = await client.create_pipeline_run(NAP, 600, request_id="once")
        with pytest.raises(InvalidFieldError, match=f"pipeline run {run.run_id} is RUNNING; cancel it first"):
            await client.delete_pipeline_run(run.run_id)
        await client.cancel_pipeline_run(run.run_id)
        done = await client.create_pipeline_run(LOUD, ["a"])
        async for _ in client.watch_pipeline_run(done.run_id):
            pass
        for each in (run, done):
            await client.delete_pipeline_run(each.run_id)
            with pytest.raises(PipelineRunNotFoundError):
                await client.delete_pipeline_run(each.run_id)
        with pytest.raises(PipelineRunNotFoundError):
            await anext(client.read_pipeline_output(done.run_id))
        assert f"{done.run_id}/all" in [each.labels["inferd.pipeline"] async for each in client.list_tasks()]
        again = await client.create_pipeline_run(NAP, 0, request_id="once")
        assert again.run_id != run.run_id
        kept = [each.run_id async for each in client.list_pipeline_runs()]
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert [each.run_id async for each in client.list_pipeline_runs()] == kept == [again.run_id]


async def test_a_run_goes_on_with_the_next_kernel(tmp_path: Path) -> None:
    """What a kernel has kept of a run when it ends is not done again by the next one, which brings it to its end."""
    naps = {"name": "naps", "map": "{each}", "call": {"function": "nap", "input": {"seconds": "{index}"}}}
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as first:
        run = await first.create_pipeline_run({"steps": [LOUD["steps"][0], naps]}, ["a", "b"])
        async for event in first.watch_pipeline_run(run.run_id):
            if event.item.step == "naps":
                break
    async with kernel_here(tmp_path, **settings(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as second:
        async with asyncio.timeout(60):
            events = [each async for each in second.watch_pipeline_run(run.run_id)]
        assert events[-1].finished.state == pp.PIPELINE_STATE_SUCCEEDED
        assert events[: event.sequence][-1] == event
        assert sum(each.item.step == "each" for each in events) == 2
        assert [item async for item in second.read_pipeline_output(run.run_id)] == ["woke up", "woke up"]


async def test_the_command_line(client: AsyncClient, tmp_path: Path) -> None:
    """`inferd pipelines` checks, runs, lists, shows, watches and ends; each speaks JSON."""
    file = tmp_path / "loud.json"
    file.write_text(json.dumps(LOUD))

    async def inferd(*words: str) -> Any:
        command = ["pipelines", *words, "-o", "json", "--address", client.address]
        said = await asyncio.to_thread(CliRunner().invoke, main.app, command)
        assert said.exit_code == 0, said.output
        told = said.stdout[said.stdout.index("{") :]  # behind lines of the log of the kernel, which is here, too
        if words[0] == "watch":
            return [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        return json.JSONDecoder().raw_decode(told)[0]

    assert (await inferd("run", str(file), "--check", "--input", "[]")).get("run_id", "") == ""
    ran = await inferd("run", str(file), "--input", '["x"]')
    assert ran["value"] == "X!"
    run_id = ran["run_id"]
    assert (await inferd("list"))["runs"][0]["run_id"] == run_id
    assert (await inferd("show", run_id[:-1]))["state"] == "PIPELINE_STATE_SUCCEEDED"
    assert (await inferd("watch", run_id))[-1]["finished"]["state"] == "PIPELINE_STATE_SUCCEEDED"
    assert (await inferd("cancel", run_id))["state"] == "PIPELINE_STATE_SUCCEEDED"
    assert await inferd("rm", run_id[:-1]) == {"run_id": run_id}
    with pytest.raises(PipelineRunNotFoundError):
        await client.get_pipeline_run(run_id)
