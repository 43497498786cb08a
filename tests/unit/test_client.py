"""The two clients against a kernel of the wire only; each test names what a user of the client relies on."""

import asyncio
import subprocess
import sys
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from time_limits import LONG_S

from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.errors_pb2 import ErrorReason
from inferd_client import DEFAULT_ADDRESS, AsyncClient, Client, KernelUnreachableError, RunOptions, errors, rpc_errors
from inferd_client.generations import collect
from inferd_client.tasks import run_request

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = "The capital of France is Paris 🗼."
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(scripted: Any) -> "Iterator[Client]":
    with Client(scripted.address) as connected:
        yield connected


def test_generate_gives_text_ids_reason_usage_and_receipt(client: Client) -> None:
    """`generate` folds the events of a task into one value."""
    answer = client.generate("echo", QUESTION)
    assert answer.text == ANSWER
    assert answer.token_ids == (5, 105, 6, 106, 7, 107, 8, 108)
    assert (answer.task_id, answer.finish_reason) == ("t-1", "END_OF_TEXT")
    assert answer.usage.output_tokens == 8
    assert answer.receipt.device == "cpu:0"


async def test_async_generate_equals_the_sync_one(scripted: Any) -> None:
    """Both clients give the same value for the same task."""
    async with AsyncClient(scripted.address) as client:
        answer = await client.generate("echo", QUESTION)
    with Client(scripted.address) as sync:
        assert answer == sync.generate("echo", QUESTION, output_interval_s=None)
    asked = [request.output_interval.seconds for request in scripted.requests]
    assert asked == [10, 10]  # nobody looks at single tokens


def test_stream_gives_the_text_in_pieces(client: Client) -> None:
    """`stream` iterates over str and leaves out events without text."""
    assert list(client.stream("echo", QUESTION)) == ["The capital", " of France", " is Paris", " 🗼."]


async def test_async_stream_gives_the_text_in_pieces(scripted: Any) -> None:
    """The asynchronous `stream` gives the same pieces."""
    async with AsyncClient(scripted.address) as client:
        pieces = [piece async for piece in client.stream("echo", QUESTION)]
    assert pieces == ["The capital", " of France", " is Paris", " 🗼."]


def test_run_gives_all_events_in_order(client: Client) -> None:
    """`run` gives every event once, with rising numbers, `Finished` last."""
    events = list(client.run("echo", "Once upon"))
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds == ["queued", "started", "progress", "progress", *["output"] * 4, "finished"]
    assert [event.sequence for event in events] == list(range(1, 10))


def test_a_failed_task_raises_once_after_its_last_event(client: Client) -> None:
    """The typed error is built from `Finished.error` and comes after `Finished` was given."""
    seen: list[tp.TaskEvent] = []
    with pytest.raises(errors.WorkerDiedError, match="signal 9") as caught:
        seen.extend(client.run("broken", "x"))
    assert seen[-1].finished.state == tp.TASK_STATE_FAILED
    assert caught.value.metadata == {"cause": "killed by signal 9", "log": "/state/echo.log"}
    assert (caught.value.reason, caught.value.code) == ("WORKER_DIED", "UNAVAILABLE")


async def test_a_failed_task_raises_from_the_async_client_too(scripted: Any) -> None:
    """`generate` of the asynchronous client raises the same class."""
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(errors.WorkerDiedError):
            await client.generate("broken", "x")


@pytest.mark.parametrize(
    ("model", "kind", "facts"),
    [
        ("ecko", errors.ModelNotFoundError, {"metadata": {"suggestion": "echo"}, "code": "NOT_FOUND"}),
        ("full", errors.QueueFullError, {"retry_after_s": 1.5, "metadata": {"limit": "1000"}}),
        ("invalid", errors.InvalidFieldError, {"field": "spec.sampling.top_p", "retry_after_s": None}),
    ],
)
def test_refusals_are_typed(client: Client, model: str, kind: type[Exception], facts: dict[str, Any]) -> None:
    """An error before the first event carries reason, metadata, field and the time to try again."""
    with pytest.raises(kind) as caught:
        client.generate(model, "x")
    assert {name: getattr(caught.value, name) for name in facts} == facts


def test_there_is_a_class_for_every_reason() -> None:
    """Every `ErrorReason` of the wire has one class, and no class has a reason that the wire lacks."""
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert set(errors.BY_REASON) == names | {"KERNEL_UNREACHABLE", "TLS_FAILED"}
    assert issubclass(errors.LeaseLostError, errors.LeaseEndedError)


def test_an_unknown_reason_is_kept_by_name() -> None:
    """A reason newer than the client becomes an `InternalError` that still tells its name."""
    packed = Packed()
    packed.Pack(error_details_pb2.ErrorInfo(reason="BRAND_NEW", domain="inferd"))
    error = errors.from_status(status_pb2.Status(code=13, message="?", details=[packed]))
    assert type(error) is errors.InternalError
    assert error.reason == "BRAND_NEW"


def test_closing_the_iterator_cancels_the_call(scripted: Any, client: Client) -> None:
    """Leaving a stream early ends the RPC on the server."""
    with closing(client.run("endless", "x")) as events:
        for event in events:
            if event.HasField("output"):
                break
    assert scripted.ended.wait(LONG_S)


async def test_cancelling_the_reader_cancels_the_call(scripted: Any) -> None:
    """Cancelling the asyncio task that reads ends the RPC on the server."""
    async with AsyncClient(scripted.address) as client:
        started = asyncio.Event()

        async def read() -> None:
            async for _ in client.stream("endless", "x"):
                started.set()

        reader = asyncio.create_task(read())
        await asyncio.wait_for(started.wait(), 60)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await asyncio.to_thread(scripted.ended.wait, 10)


async def test_leaving_an_async_stream_cancels_the_call(scripted: Any) -> None:
    """`aclosing` around a stream ends the RPC when the block is left."""
    async with AsyncClient(scripted.address) as client:
        async with aclosing(client.stream("endless", "x")) as pieces:
            async for _ in pieces:
                break
        assert await asyncio.to_thread(scripted.ended.wait, 10)


def test_the_deadline_of_the_call_is_the_task_s(client: Client) -> None:
    """A task that is still queued at its deadline raises `TaskExpiredError`, whoever notices first."""
    with pytest.raises(errors.TaskExpiredError):
        client.generate("silent", "x", timeout_s=0.3)


def test_watch_replays_behind_a_number(client: Client) -> None:
    """`watch` leaves out what the caller has seen and ends after `Finished`."""
    events = list(client.watch("t-1", after_sequence=6))
    assert [event.sequence for event in events] == [7, 8, 9]


async def test_watch_of_a_failed_task_does_not_raise(scripted: Any) -> None:
    """A watcher learns of the failure from `Finished`; its own call succeeded."""
    async with AsyncClient(scripted.address) as client:
        events = [event async for event in client.watch("t-broken")]
    assert events[-1].finished.state == tp.TASK_STATE_FAILED


def test_watch_of_an_unknown_task_raises(client: Client) -> None:
    """A task that is not known is a `TaskNotFoundError`."""
    with pytest.raises(errors.TaskNotFoundError):
        list(client.watch("t-gone"))


async def test_lists_go_through_all_pages(scripted: Any) -> None:
    """Both clients ask for the next page until there is none."""
    with Client(scripted.address) as sync:
        assert [task.task_id for task in sync.list_tasks()] == ["t-3", "t-2", "t-1"]
        assert [backend.name for backend in sync.list_backends()] == ["cpu", "torch"]
        names = [model.name for model in sync.list_models()]
    assert names == sorted(scripted.models)
    async with AsyncClient(scripted.address) as client:
        assert [task.task_id async for task in client.list_tasks()] == ["t-3", "t-2", "t-1"]
        assert [backend.name async for backend in client.list_backends()] == ["cpu", "torch"]
        assert [model.name async for model in client.list_models()] == names


def test_list_tasks_passes_the_states(scripted: Any, client: Client) -> None:
    """The filter of `list_tasks` reaches the kernel with every page."""
    list(client.list_tasks(states=[tp.TASK_STATE_RUNNING, tp.TASK_STATE_QUEUED]))
    assert [list(request.states) for request in scripted.requests] == [[2, 1], [2, 1]]


async def test_one_instance_is_unloaded(scripted: Any) -> None:
    """`instance_id` reaches the kernel from either client; what could mean all instances, or end tasks, is refused."""
    with Client(scripted.address) as sync:
        sync.unload_model("echo", instance_id="echo-1")
        for wrong in ({"instance_id": ""}, {"instance_id": "echo-1", "force": True}):
            with pytest.raises(ValueError, match="instance_id"):
                sync.unload_model("echo", **wrong)
    async with AsyncClient(scripted.address) as client:
        await client.unload_model("echo", instance_id="echo-2")
        with pytest.raises(ValueError, match="instance_id"):
            await client.unload_model("echo", instance_id="")
    asked = [request for request in scripted.requests if request.DESCRIPTOR.name == "UnloadModelRequest"]
    assert [request.instance_id for request in asked] == ["echo-1", "echo-2"]


async def test_short_calls_of_both_clients(scripted: Any) -> None:
    """Each unary method returns its resource, from either client."""
    with Client(scripted.address) as sync:
        assert sync.get_task("t-9").task_id == "t-9"
        assert sync.cancel_task("t-9").state == tp.TASK_STATE_CANCELLED
        assert sync.create_model("new", "/m/new", settings={"context_tokens": "512"}).settings["context_tokens"]
        assert sync.get_model("new").source == "/m/new"
        assert sync.load_model("echo").state == mp.MODEL_STATE_READY
        assert sync.unload_model("echo", force=True).returned_bytes == 900_000_000
        assert sync.get_host().name == "here"
    async with AsyncClient(scripted.address) as client:
        assert (await client.get_task("t-9")).task_id == "t-9"
        assert (await client.cancel_task("t-9")).state == tp.TASK_STATE_CANCELLED
        assert (await client.create_model("new", "/m/new")).name == "new"
        assert (await client.get_model("new")).source == "/m/new"
        assert (await client.load_model("echo")).state == mp.MODEL_STATE_READY
        assert (await client.unload_model("echo")).returned_bytes == 900_000_000
        assert (await client.get_host()).name == "here"


async def test_health_tells_unknown_services_apart(scripted: Any) -> None:
    """`health` answers for the kernel and for a service that it does not know."""
    with Client(scripted.address) as sync:
        assert (sync.health(), sync.health("nonsense")) == ("SERVING", "SERVICE_UNKNOWN")
    async with AsyncClient(scripted.address) as client:
        assert (await client.health(), await client.health("nonsense")) == ("SERVING", "SERVICE_UNKNOWN")


async def test_watch_model_gives_the_present_state_first(scripted: Any) -> None:
    """The first value of `watch_model` is the model as it is; closing it ends the call."""
    async with AsyncClient(scripted.address) as client, aclosing(client.watch_model("echo")) as models:
        async for model in models:
            assert model.state == mp.MODEL_STATE_READY
            break
    assert await asyncio.to_thread(scripted.ended.wait, 10)


async def test_watch_tasks_gives_the_list_and_its_changes(scripted: Any) -> None:
    """`watch_tasks` asks for states and gives messages as they come, in both clients."""
    states = (tp.TASK_STATE_RUNNING,)
    with Client(scripted.address) as sync:
        told = list(sync.watch_tasks(states=states))
    async with AsyncClient(scripted.address) as client, aclosing(client.watch_tasks(states=states)) as parts:
        assert [part async for part in parts] == told
    assert [[task.task_id for task in part.tasks] for part in told] == [["t-2", "t-1"], ["t-1"]]
    assert [part.anew for part in told] == [True, False]
    asked = scripted.requests[-1]
    assert list(asked.states) == list(states)


def test_the_tenant_travels_as_metadata(scripted: Any) -> None:
    """Every kind of call names the tenant; without one nothing is sent."""
    with Client(scripted.address, tenant="blue") as client:
        client.get_host()
        client.generate("echo", "x")
    with Client(scripted.address) as client:
        client.get_host()
    assert scripted.tenants == ["blue", "blue", ""]


def test_short_calls_have_a_deadline_and_tasks_have_their_own(scripted: Any) -> None:
    """A kernel that hangs cannot hang a short call for ever, and no hidden deadline cuts a long task."""
    with Client(scripted.address, timeout_s=12) as client:
        client.get_host()
        client.generate("echo", "x")
        client.generate("echo", "x", timeout_s=99)
    short, free, own = scripted.timeouts_s
    assert short is not None
    assert 0 < short < 13  # the clock of the transport is coarse
    assert free is None or free > 1e6
    assert own is not None
    assert 13 < own < 100


async def test_no_kernel_names_the_address_and_the_fix(unused_address: str) -> None:
    """Where nobody listens the error says where and how to start a kernel, from either client."""
    with Client(unused_address) as sync, pytest.raises(KernelUnreachableError, match="inferd serve") as caught:
        sync.get_host()
    command = f"inferd serve --listen {unused_address}"
    assert caught.value.message.endswith(f"(the connection was refused); start one with: {command}")
    assert caught.value.message.count(unused_address) == 1
    async with AsyncClient(unused_address) as client:
        with pytest.raises(KernelUnreachableError):
            await client.generate("echo", "x")


def test_how_to_start_a_kernel_where_none_answers(tmp_path: Path) -> None:
    """The command to start one names the address where it is not the default; on another host there is none."""
    gone = f"unix:{tmp_path}/a b.sock"
    with Client(gone) as client, pytest.raises(KernelUnreachableError) as caught:
        client.get_host()
    told = "no kernel answers (there is no such socket); start one with: inferd serve --listen"
    assert caught.value.message == f"{told} '{gone}'"
    refused = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "")
    assert rpc_errors.from_rpc(refused, DEFAULT_ADDRESS).message.endswith(
        f"{DEFAULT_ADDRESS}; start one with: inferd serve"
    )
    assert "serve" not in rpc_errors.from_rpc(refused, "far.example:7411").message


def test_a_call_that_the_connection_has_no_room_for_names_the_bound() -> None:
    """A call that the transport refused because too many are open is not taken for a kernel that is gone."""
    details = "Stream removed (Received RST_STREAM with error code 7 (RST_STREAM))"
    refused = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    error = rpc_errors.from_rpc(refused, "localhost:1")
    assert isinstance(error, errors.LimitExceededError)
    assert error.metadata == {"bound": "limits.concurrent_streams"}
    assert error.retry_after_s == 1.0
    assert "limits.concurrent_streams" in error.message


def test_a_status_of_the_transport_keeps_its_code(scripted: Any, client: Client) -> None:
    """A status without details is a `StatusError` that tells the code and the words."""
    scripted.bare_refusal = grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(errors.StatusError, match="said the transport") as caught:
        client.get_host()
    assert (caught.value.code, caught.value.reason) == ("UNIMPLEMENTED", "")


def test_zero_is_a_value_and_none_is_not() -> None:
    """Sampling keywords that are 0 are sent, and those that are None or absent are not."""
    sampling = run_request("m", "x", {"temperature": 0.0, "top_k": None, "stop": ["\n"]}).spec.sampling
    assert sampling.HasField("temperature")
    assert not sampling.HasField("top_k")
    assert not sampling.HasField("top_p")
    assert list(sampling.stop) == ["\n"]


def test_every_sampling_field_is_a_keyword() -> None:
    """What the wire can say of sampling, the client's keywords can; they reach the request as they are."""
    assert {field.name for field in sp.SamplingParams.DESCRIPTOR.fields} <= RunOptions.__annotations__.keys()
    options = RunOptions(logit_bias={3: -1.5}, bad_words=["x"], n=2, logprobs=0, grammar=sp.Grammar(regex="a+"))
    sampling = run_request("m", "x", options).spec.sampling
    assert sampling == sp.SamplingParams(
        logit_bias={3: -1.5}, bad_words=["x"], n=2, logprobs=0, grammar=sp.Grammar(regex="a+")
    )
    assert not run_request("m", "x", {"prefix_cache": False}).spec.prefix_cache
    assert not run_request("m", "x", {}).spec.HasField("prefix_cache")
    assert run_request("m", QUESTION, {"tools_json": "[{}]"}).spec.chat.tools_json == "[{}]"
    assert run_request("m", "x", {"priority": "high"}).spec.priority == pp.PRIORITY_HIGH
    assert run_request("m", "x", {"priority": None}).spec.priority == pp.PRIORITY_UNSPECIFIED


def test_samples_are_put_together() -> None:
    """Outputs of several samples, as they come mixed, become one output for each; the first one is the generation's."""
    told = tp.TokenLogprobs(token_id=1, logprob=-0.5)
    outputs = [
        tp.Output(text="prompt ", prompt_logprobs=[told]),
        tp.Output(text="a", token_ids=[1], logprobs=[told]),
        tp.Output(text="b", token_ids=[2], sample=1, finish_reason=tp.FINISH_REASON_STOP_STRING),
        tp.Output(text="c", token_ids=[3], finish_reason=tp.FINISH_REASON_MAX_TOKENS),
    ]
    end = tp.TaskEvent(finished=tp.Finished(reason=tp.FINISH_REASON_MAX_TOKENS))
    generation = collect([*(tp.TaskEvent(task_id="t", output=output) for output in outputs), end])
    assert [(s.text, s.token_ids, s.finish_reason) for s in generation.samples] == [
        ("prompt ac", (1, 3), "MAX_TOKENS"),
        ("b", (2,), "STOP_STRING"),
    ]
    assert (generation.text, generation.token_ids) == ("prompt ac", (1, 3))
    assert generation.logprobs == generation.prompt_logprobs == (told,)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("text", "prompt"), ("", "prompt"), ([1, 2], "tokens"), ((3,), "tokens"), (QUESTION, "chat")],
)
def test_kinds_of_prompts(prompt: Any, kind: str) -> None:
    """Text, token ids and messages each become their own input of the task."""
    assert run_request("m", prompt, {}).spec.WhichOneof("input") == kind


@pytest.mark.parametrize("prompt", [[], [1, "x"], [QUESTION[0], 3]])
def test_prompts_of_no_kind_are_refused(prompt: Any) -> None:
    """An empty sequence or a mixture is refused before any call."""
    with pytest.raises(ValueError, match="at least one"):
        run_request("m", prompt, {})


def test_options_of_the_request_are_passed() -> None:
    """Labels, the request id and detaching reach the request."""
    request = run_request("m", "x", {"labels": {"a": "b"}, "request_id": "r1", "detach_on_disconnect": True})
    assert dict(request.spec.labels) == {"a": "b"}
    assert (request.request_id, request.detach_on_disconnect) == ("r1", True)


def test_how_often_output_comes() -> None:
    """`run` asks for each output at once unless it is told otherwise, in seconds and parts of one."""
    assert not run_request("m", "x", {}).HasField("output_interval")
    assert run_request("m", "x", {"output_interval_s": 1.25}).output_interval.ToMilliseconds() == 1250


def test_importing_the_client_loads_neither_the_kernel_nor_a_framework() -> None:
    """A program that uses the client carries grpc, protobuf and the generated code, nothing else of inferd."""
    program = "import inferd_client, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert {"inferd_client", "inferd_api", "grpc"} <= set(loaded)
    assert not {"inferd", "numpy", "torch", "pydantic", "typer", "rich"} & set(loaded)
