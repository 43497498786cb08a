import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, read_failing, reason_of, refusal, text_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.plugin.registry import BackendState
from inferd.runtime import orders
from inferd.runtime.placement import place
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp


async def test_a_model_is_loaded_watched_and_unloaded(connection: Connection) -> None:
    """Loading shows its states and its progress, ends READY with the facts; unloading says what memory came back."""
    await connection.create(load_s=0.3)
    watch = aiter(connection.another().models.WatchModel(ms.WatchModelRequest(name="fake")))
    states: list[int] = [(await anext(watch)).model.state]
    fractions: list[float] = []

    async def follow() -> None:
        async for response in watch:
            states.append(response.model.state)
            fractions.extend(i.load_fraction for i in response.model.instances)
            if mp.MODEL_STATE_LOADING in states and states[-1] == mp.MODEL_STATE_UNLOADED:
                return

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        loaded = (await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))).model
        (instance,) = loaded.instances
        assert (loaded.state, instance.state) == (mp.MODEL_STATE_READY, mp.INSTANCE_STATE_READY)
        assert instance.max_tasks == 64
        assert instance.context_tokens == 1024
        assert instance.memory_bytes > 1 << 20
        assert instance.load_duration.ToMilliseconds() >= 300
        assert instance.log_path
        answer = await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake"))
        assert answer.returned_bytes > 1 << 20
        assert not answer.model.instances
    distinct = [s for n, s in enumerate(states) if n == 0 or states[n - 1] != s]
    assert distinct[0] == mp.MODEL_STATE_UNLOADED
    assert mp.MODEL_STATE_LOADING in distinct
    assert distinct[-1] == mp.MODEL_STATE_UNLOADED
    assert any(0 < f < 1 for f in fractions)
    assert not connection.kernel.driver.supervisor.workers


async def test_a_model_that_cannot_be_loaded_says_why_and_the_kernel_lives(connection: Connection) -> None:
    """`LoadModel` and a waiting task both get MODEL_LOAD_FAILED with the cause; other models still work."""
    await connection.create("broken", load_error="the file is truncated at byte 17")
    await connection.create("fine")
    reason, facts = await refusal(connection.models.LoadModel(ms.LoadModelRequest(name="broken")))
    assert reason == "MODEL_LOAD_FAILED"
    assert "truncated at byte 17" in facts["cause"]
    model = (await connection.models.GetModel(ms.GetModelRequest(name="broken"))).model
    assert model.state == mp.MODEL_STATE_FAILED
    assert "truncated at byte 17" in model.error.message
    _, error = await read_failing(connection.chat("x", model="broken"))
    assert reason_of(error)[0] == "MODEL_LOAD_FAILED"
    assert text_of(await read_all(connection.chat("y", model="fine"))) == "y"


async def test_a_refused_model_is_told_which_backends_may_run_it(connection: Connection) -> None:
    """Where the backend says that another may load the file, load and plan name those, and what others lack."""
    path = str(write_fake_model(connection.folder, unsupported="architecture 'x' is not supported"))
    ready = next(report for report in connection.kernel.reports if report.name == "fake")
    assert ready.spec is not None
    second = replace(ready, name="second", spec=replace(ready.spec, name="second", rank=ready.spec.rank + 1))
    third = replace(second, name="third", state=BackendState.SKIPPED, why="no torch", fix="pip install third")
    reports = (ready, second, third)
    connection.kernel.driver.create_model(place(reports, name="fake", source=path))
    for call in (
        connection.models.LoadModel(ms.LoadModelRequest(name="fake")),
        connection.models.PlanLoad(ms.PlanLoadRequest(name="fake")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        reason, facts = reason_of(caught.value)
        assert reason == "MODEL_LOAD_FAILED"
        assert facts["backends"] == "second, third (is SKIPPED; fix: pip install third)"
        assert (
            "architecture 'x' is not supported. Other backends that load fake files: second" in caught.value.details()
        )
        assert "unsupported" not in facts
    await connection.create("broken", load_error="cut short")
    reason, facts = await refusal(connection.models.LoadModel(ms.LoadModelRequest(name="broken")))
    assert "backends" not in facts


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"name": ""}, "INVALID_FIELD", "model.name"),
        ({"name": "no name"}, "INVALID_FIELD", "model.name"),
        ({"name": "../../pwn"}, "INVALID_FIELD", "must not begin with '.' or '/'"),
        ({"source": ""}, "INVALID_FIELD", "model.source"),
        ({"source": "/no/such/file.fake"}, "INVALID_FIELD", "does not exist"),
        ({"source": "file://[a/b"}, "INVALID_FIELD", "no path"),
        ({"source": "/" + "x" * 4000}, "INVALID_FIELD", "no path"),
        ({"source": "/" + "x" * 4096}, "INVALID_FIELD", "model.source has 4097 characters; at most 4096"),
        ({"settings": {"context_tokens": "1" * 4097}}, "INVALID_FIELD", "has 14 and 4097 characters"),
        ({"settings": {"source": "x" * 4097}}, "INVALID_FIELD", "has 6 and 4097 characters"),
        ({"settings": {"k" * 4097: "1"}}, "INVALID_FIELD", "has 4097 and 1 characters"),
        ({"settings": {f"k{number}": "1" for number in range(65)}}, "INVALID_FIELD", "65 settings; at most 64"),
        ({"source": "relative.fake"}, "INVALID_FIELD", "absolute"),
        ({"source": "https://example.org/m.gguf"}, "INVALID_FIELD", "needs a digest"),
        ({"backend": "fakee"}, "BACKEND_NOT_FOUND", "fake"),
        ({"backend": "cpu"}, "BACKEND_UNAVAILABLE", "GGUF files"),
        ({"device": "cuda:7"}, "BACKEND_UNAVAILABLE", "fake:0"),
        ({"settings": {"context_token": "1"}}, "INVALID_FIELD", "context_tokens"),
        ({"settings": {"context_tokens": "many"}}, "INVALID_FIELD", "int"),
        ({"settings": {"draft_tokens": "65"}}, "INVALID_FIELD", "64"),
        ({"settings": {"queued_tasks": "0"}}, "INVALID_FIELD", "queued_tasks"),
        ({"min_instances": 2}, "INVALID_FIELD", "min_instances is 2 and max_instances is 1"),
        ({"max_instances": 0}, "INVALID_FIELD", "max_instances is 0"),
        ({"max_instances": 65}, "INVALID_FIELD", "1 to 64"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_model_is_refused_by_name(
    shared: Connection, changes: dict[str, Any], reason: str, words: str
) -> None:
    """Each thing that is wrong with a new model is refused with the reason that names it and what would be right."""
    wanted = {"name": "new", "source": str(write_fake_model(shared.folder)), **changes}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.models.CreateModel(ms.CreateModelRequest(model=mp.Model(**wanted)))
    assert reason_of(caught.value)[0] == reason
    assert words in str(caught.value.details()) + str(reason_of(caught.value)[1])


async def test_a_model_that_failed_to_load_can_be_deleted_once_unloaded(connection: Connection) -> None:
    """Unloading waits for the worker of a load that failed, too, so that what follows finds nothing left of it."""
    await connection.create("broken", load_error="cut short")
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await connection.models.LoadModel(ms.LoadModelRequest(name="broken"))
        answer = await connection.models.UnloadModel(ms.UnloadModelRequest(name="broken"))
        assert not answer.model.instances
    await connection.models.DeleteModel(ms.DeleteModelRequest(name="broken"))


async def test_creating_a_model_is_idempotent(connection: Connection) -> None:
    """The same model again is returned; the same name with another file is MODEL_EXISTS."""
    await connection.create()
    await connection.create()
    other = mp.Model(name="fake", source=str(write_fake_model(connection.folder, "other")))
    reason, _ = await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=other)))
    assert reason == "MODEL_EXISTS"


async def test_models_are_listed_in_pages_by_name(connection: Connection) -> None:
    """Pages follow each other by name without gap or repeat."""
    for name in ("c", "a", "b"):
        await connection.create(name)
    first = await connection.models.ListModels(ms.ListModelsRequest(page_size=2))
    rest = await connection.models.ListModels(ms.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [m.name for m in (*first.models, *rest.models)] == ["a", "b", "c"]
    assert rest.next_page_token == ""


async def test_a_busy_model_is_unloaded_only_with_force(connection: Connection) -> None:
    """Unloading a model with running tasks is MODEL_BUSY; with force they end CANCELLED and the memory comes back."""
    await connection.create(step_s=0.02)
    call = connection.endless()
    async for response in call:
        if response.event.WhichOneof("kind") == "output":
            break
    reason, facts = await refusal(connection.models.UnloadModel(ms.UnloadModelRequest(name="fake")))
    assert (reason, facts["running"]) == ("MODEL_BUSY", "1")
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake", force=True))
    events, _ = await read_failing(call)
    assert events[-1].finished.state == tp.TASK_STATE_CANCELLED


async def test_speculation_is_switched_per_model(connection: Connection) -> None:
    """A model with `draft_tokens` guesses and reports what was accepted; the same file without it does not."""
    path = str(write_fake_model(connection.folder))
    usages = {}
    for drafts in ("0", "4"):
        model = mp.Model(name=f"drafts-{drafts}", source=path, settings={"draft_tokens": drafts})
        await connection.models.CreateModel(ms.CreateModelRequest(model=model))
        events = await read_all(connection.endless(model=model.name, tokens=40))
        assert text_of(events) == "la" * 20
        usages[drafts] = events[-1].finished.usage
    assert usages["0"].drafted_tokens == 0
    assert usages["4"].drafted_tokens >= usages["4"].accepted_tokens > 20


async def test_the_bounds_of_instances_are_kept_and_told(connection: Connection) -> None:
    """A model with a least number of instances loads them by itself; both bounds are read back, with the defaults."""
    await connection.create("plain")
    plain = (await connection.models.GetModel(ms.GetModelRequest(name="plain"))).model
    assert (plain.min_instances, plain.max_instances) == (0, 1)
    path = write_fake_model(connection.folder, "pair")
    wanted = mp.Model(name="pair", source=str(path), min_instances=2, max_instances=3)
    assert (await connection.models.CreateModel(ms.CreateModelRequest(model=wanted))).model.max_instances == 3
    watch = connection.models.WatchModel(ms.WatchModelRequest(name="pair"))
    async for response in watch:
        if [i.state for i in response.model.instances] == [mp.INSTANCE_STATE_READY] * 2:
            break
    (first, second) = response.model.instances
    assert first.pid != second.pid
    assert first.reserved_bytes >= (1 << 20) + (1 << 18) == first.need.weights_bytes + first.need.kv_bytes
    assert first.device == "fake:0"


async def test_a_plan_is_what_a_load_would_do(connection: Connection) -> None:
    """`PlanLoad` tells the need and the decision with its figures, and loads nothing; an unknown setting is refused."""
    await connection.create(weights_bytes=300 << 20)
    await connection.create("huge", weights_bytes=100 << 30)
    plan = (await connection.models.PlanLoad(ms.PlanLoadRequest(name="fake"))).plan
    assert (plan.fits, plan.device_id, plan.need.weights_bytes) == (True, "fake:0", 300 << 20)
    assert plan.capacity_bytes >= plan.free_bytes > 300 << 20
    assert "fits fake:0" in plan.reason
    assert not (await connection.models.GetModel(ms.GetModelRequest(name="fake"))).model.instances
    huge = (await connection.models.PlanLoad(ms.PlanLoadRequest(name="huge"))).plan
    assert (huge.fits, huge.need.weights_bytes) == (False, 100 << 30)
    wrong = ms.PlanLoadRequest(name="fake", settings={"draft_token": "1"})
    assert (await refusal(connection.models.PlanLoad(wrong)))[0] == "INVALID_FIELD"
    long = ms.PlanLoadRequest(name="fake", settings={"draft_tokens": "1" * 4097})
    assert (await refusal(connection.models.PlanLoad(long)))[0] == "INVALID_FIELD"
    assert (await refusal(connection.models.PlanLoad(ms.PlanLoadRequest(name="fa"))))[0] == "MODEL_NOT_FOUND"


async def test_watchers_of_models_are_bounded(connection: Connection) -> None:
    """A watcher of an unknown model is refused; closing one gives its place back."""
    reason, _ = reason_of((await read_failing(connection.models.WatchModel(ms.WatchModelRequest(name="no"))))[1])
    assert reason == "MODEL_NOT_FOUND"


async def test_health_follows_kernel_services_and_models(connection: Connection) -> None:
    """The kernel and its services are SERVING; a model is when it takes tasks; an unknown name is NOT_FOUND."""
    await connection.create()
    stub = health_pb2_grpc.HealthStub(connection.channel)

    async def check(service: str) -> int:
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

    serving, not_serving = 1, 2
    assert [await check(s) for s in ("", "inferd.v1.TaskService", "inferd.v1.ModelService")] == [serving] * 3
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="model:fake"))
    assert (await watch.read()).status == not_serving
    await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))
    assert (await watch.read()).status == serving
    assert await check("model:fake") == serving
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check("model:nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch.cancel()


async def test_a_start_that_raises_is_a_load_that_failed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised while a worker is started, who waits for it is told why; the next start is another one."""

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("value out of range")

    await connection.create()
    with monkeypatch.context() as broken:
        broken.setattr(orders, "load_frame", fails)
        with pytest.raises(grpc.aio.AioRpcError, match="its worker could not be started: value out of range") as caught:
            await read_all(connection.chat("hello", timeout=60))
        assert reason_of(caught.value)[0] == "MODEL_LOAD_FAILED"
        model = (await connection.models.GetModel(ms.GetModelRequest(name="fake"))).model
        assert (model.state, list(model.instances)) == (mp.MODEL_STATE_FAILED, [])
    await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))  # at once, without the backoff
    assert text_of(await read_all(connection.chat("hello", timeout=60))) == "hello"
