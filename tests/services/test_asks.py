"""Functions that ask models, by the wire, with real workers and the FakeBackend."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from guarded import guarded
from typer.testing import CliRunner

from inferd.cli import main
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import task_pb2 as tp
from inferd_client import AsyncClient
from inferd_client.errors import (
    LimitExceededError,
    ModelNotFoundError,
    UnsupportedInputError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = {"modules": ("inferd.testing.functions",), "packages": (), "calls": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with a model that repeats what it is told, and one that does so slowly."""
    folder = tmp_path_factory.mktemp("asked")
    async with kernel_here(folder, functions=FUNCTIONS) as kernel, AsyncClient(kernel.addresses[0]) as made:
        await made.create_model("fake", str(write_fake_model(folder, "fake")))
        await made.create_model("slow", str(write_fake_model(folder, "slow", step_s=0.5)))
        yield made


async def asked_tasks(client: AsyncClient) -> list[tp.Task]:
    """The tasks by which models answered calls, newest first."""
    return [each async for each in client.list_tasks(trials_too=True) if "inferd.call" in each.labels]


async def test_a_function_asks_models(client: AsyncClient) -> None:
    """What is asked at once is answered in its order, by tasks that its receipt counts and lists leave out."""
    events = [
        each
        async for each in client.watch(
            (
                await client.create_call("answers", {"model": "fake", "prompts": ["abab", "cdcd"]}, priority="low")
            ).task_id
        )
    ]
    pieces = [json.loads(each.output.call.json) for each in events if each.output.HasField("call")]
    assert pieces == ["abab", "cdcd"]
    assert [each.progress.fraction for each in events if each.progress.phase == tp.PHASE_CALL] == [0.5]
    asked = events[-1].finished.receipt.asked
    assert (asked.tasks, asked.prompt_tokens, asked.output_tokens) == (2, 8, 8)
    assert events[-1].finished.usage.output_tokens == 0  # which quotas would count twice
    tasks = await asked_tasks(client)
    assert {each.labels["inferd.call"] for each in tasks} == {events[-1].task_id}
    assert {each.priority for each in tasks} == {tp.TaskSpec(priority=1).priority}
    assert all("inferd.call" not in each.labels for each in [each async for each in client.list_tasks()])


async def test_models_score_embed_and_count(client: AsyncClient) -> None:
    """The likeliest ending is found by what the model says of each; vectors and tokens come likewise."""
    endings = {"model": "fake", "prompt": "aaaa", "endings": ["zzz", "aaa", "bbb"]}
    assert await client.call("likeliest", endings) == "aaa"
    assert [
        each async for each in client.call_stream("answers", {"model": "fake", "prompts": ["abc"], "do": "embed"})
    ] == ["3()"]
    assert [
        each async for each in client.call_stream("answers", {"model": "fake", "prompts": ["abc"], "do": "count"})
    ] == ["0(3,)"]


async def test_what_a_model_writes_keeps_to_a_schema(client: AsyncClient) -> None:
    """JSON of a schema is a value; what fails is an error that the function may catch."""
    assert await client.call("described", {"model": "fake", "text": "fine"}) in ("good", "bad")
    assert await client.call("described", {"model": "none", "text": "fine"}) == "MODEL_NOT_FOUND"
    assert await client.call("described", {"model": "functions@repeat", "text": "fine"}) == "UNSUPPORTED_INPUT"


async def test_what_a_function_does_not_catch_its_client_is_told(client: AsyncClient) -> None:
    """The error of a model is that of the call, with its reason; so is that it asks too often, or has not said so."""
    with pytest.raises(ModelNotFoundError, match=r"function 'likeliest': .*'fakes'.*did you mean 'fake'"):
        await client.call("likeliest", {"model": "fakes", "prompt": "a", "endings": ["b"]})
    with pytest.raises(LimitExceededError, match="asks models 4 times, and says that it does so 3 times") as often:
        [each async for each in client.call_stream("answers", {"model": "fake", "prompts": ["a"] * 4})]
    assert often.value.metadata["bound"] == "asks"
    with pytest.raises(UnsupportedInputError, match=r"@function\(asks=…\)"):
        await client.call("unsaid", {"model": "fake"})


async def test_with_several_inputs_each_may_ask(client: AsyncClient) -> None:
    """Of a call with several inputs each may ask as often as the function says."""
    given = [{"model": "fake", "text": "x", "tries": 2}] * 3
    assert len([each async for each in client.call_each("described", given)]) == 3


async def test_what_a_call_asks_ends_with_it(client: AsyncClient) -> None:
    """A call that is cancelled while a model answers leaves no task behind."""
    call = await client.create_call("described", {"model": "slow", "text": "long " * 9})

    async def until(state: int) -> None:
        async for told in client.watch_tasks(trials_too=True):
            if [each for each in told.tasks if each.labels.get("inferd.call") == call.task_id and each.state == state]:
                return

    async with asyncio.timeout(60):
        await until(tp.TASK_STATE_RUNNING)
        await client.cancel_task(call.task_id)
        await until(tp.TASK_STATE_CANCELLED)


async def test_a_call_asks_what_its_caller_may_run(tmp_path: Path) -> None:
    """A function asks no model for somebody who may not run it, also by another name of it; with the right, it does."""
    async with guarded(tmp_path, functions=FUNCTIONS) as kernel:
        async with AsyncClient(kernel.kernel.addresses[0]) as owner:
            await owner.create_model("fake", str(write_fake_model(tmp_path, "fake")))
            await owner.create_model("secret", str(write_fake_model(tmp_path, "secret")), aliases=["open"])
        await kernel.rule("role:user", models="secret")
        login = (await kernel.key()).credential
        async with AsyncClient(kernel.kernel.addresses[1], credential=login) as anna:
            said = {
                name: await anna.call("described", {"model": name, "text": "x"}) for name in ("fake", "secret", "open")
            }
            assert said == {"fake": said["fake"], "secret": "PERMISSION_DENIED", "open": "PERMISSION_DENIED"}
            assert said["fake"] in ("good", "bad")


async def test_what_functions_keep_is_there_with_the_next_kernel(tmp_path: Path) -> None:
    """A value is kept for the tenant of the call over the end of the kernel, counted, bounded, and forgotten."""
    settings = {"functions": {**FUNCTIONS, "memo_bytes": 1024}, "store": {"url": f"sqlite:{tmp_path}/kept"}}
    async with kernel_here(tmp_path, **settings) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert await client.call("tally", {"name": "a"}) == 1
        assert await client.call("tally", {"name": "a"}) == 2
        async with AsyncClient(kernel.addresses[0], tenant="other") as other:
            assert await other.call("tally", {"name": "a"}) == 1
        with pytest.raises(LimitExceededError, match=r"functions\.memo_bytes is 1024"):
            await client.call("tally", {"name": "b", "beside": "x" * 2000})
    async with kernel_here(tmp_path, **settings) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert await client.call("tally", {"name": "a"}) == 3
        assert await client.call("tallies", {"drop": "a"}) == ["a"]
        assert await client.call("tallies") == []
        assert await client.call("tally", {"name": "a"}) == 1


async def test_conversations_are_had_on_the_command_line(tmp_path: Path) -> None:
    """What is said is answered, shown, listed and forgotten."""
    functions = {"modules": ("inferd_language.plugin",), "packages": (), "calls": 1}
    async with kernel_here(tmp_path, functions=functions) as kernel:
        async with AsyncClient(kernel.addresses[0]) as client:
            await client.create_model("fake", str(write_fake_model(tmp_path, "fake")))

        async def told(*words: str) -> str:
            run = [*words, "--address", kernel.addresses[0]]
            result = await asyncio.to_thread(CliRunner().invoke, main.app, ["dialogue", *run])
            assert result.exit_code == 0, result.output
            return str(result.output).strip()

        said = await told("say", "anna", "Hello there.", "--model", "fake")
        assert said.splitlines()[-1] == "Hello there."  # behind what the kernel of this process logs
        assert await told("show", "anna") == "user: Hello there.\nassistant: Hello there."
        assert json.loads(await told("ls", "-o", "json")) == {"dialogues": ["anna"]}
        assert await told("rm", "anna") == "forgotten"
        assert "no dialogues" in await told("ls")
