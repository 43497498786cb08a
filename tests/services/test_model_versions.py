"""A model is given another version while tasks run; with real workers."""

import asyncio
import gc
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, read_until, reason_of, refusal, text_of
from structlog.testing import capture_logs

from inferd.errors import ModelBusyError
from inferd.runtime.front.versions import Versions
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import rollout_pb2 as rp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

SERVING, RETIRED, FAILED = mp.VERSION_STATE_SERVING, mp.VERSION_STATE_RETIRED, mp.VERSION_STATE_FAILED
GIB = 1 << 30  # all that the device of the FakeBackend has


async def update(connection: Connection, **changes: Any) -> ms.UpdateModelResponse:
    answer: ms.UpdateModelResponse = await connection.models.UpdateModel(
        ms.UpdateModelRequest(name="fake", **changes), timeout=60
    )
    return answer


async def versions(connection: Connection) -> list[mp.ModelVersion]:
    answer = await connection.models.ListModelVersions(ms.ListModelVersionsRequest(name="fake"))
    return [*answer.versions]


async def model_of(connection: Connection) -> mp.Model:
    model: mp.Model = (await connection.models.GetModel(ms.GetModelRequest(name="fake"))).model
    return model


def started(told: list[Any]) -> int:
    """The version that a task was started on."""
    return next(event.started.version for event in told if event.HasField("started"))


async def test_tasks_meet_no_gap_while_a_version_takes_the_place_of_another(connection: Connection) -> None:
    """The task that runs ends where it is, the next one runs on the new version; streams and receipts say which."""
    await connection.create(step_s=0.002)
    running = connection.endless(tokens=400)
    before = await read_until(running, "output")
    new = write_fake_model(connection.folder, "new", context_tokens=256)
    model = (await update(connection, source=str(new))).model
    assert (model.version, model.source, model.state) == (2, str(new), mp.MODEL_STATE_READY)
    after = await read_all(connection.chat("hello"))
    assert (started(after), text_of(after), after[-1].finished.receipt.version) == (2, "hello", 2)
    rest = before + await read_all(running)
    assert (started(rest), text_of(rest), rest[-1].finished.receipt.version) == (1, "la" * 200, 1)
    assert [(each.number, each.state) for each in await versions(connection)] == [(2, SERVING), (1, RETIRED)]


BROKEN = {
    "corrupt": ({"measure_error": "bad magic"}, "MODEL_LOAD_FAILED"),
    "breaks at load": ({"load_error": "bad tensor"}, "MODEL_LOAD_FAILED"),
    "crashes": ({"die_in_measure": True}, "WORKER_DIED"),
    "too big": ({"weights_bytes": 1 << 40}, "NO_MEMORY"),
}


async def test_a_broken_update_is_none(connection: Connection) -> None:
    """Each is refused with its reason and listed with it; the worker of the old version is the same, and no task ends.

    What is no model at all makes no version.
    """
    await connection.create(step_s=0.002)
    running = connection.endless(tokens=400)
    before = await read_until(running, "output")
    pid = (await model_of(connection)).instances[0].pid
    with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
        await update(connection, source=str(connection.folder / "nothing.fake"))
    for name, (behaviour, reason) in BROKEN.items():
        path = write_fake_model(connection.folder, name.replace(" ", "-"), **behaviour)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await update(connection, source=str(path))
        assert reason_of(caught.value)[0] == reason, name
    listed = (await versions(connection))[:-1]
    assert [each.state for each in listed] == [FAILED] * len(BROKEN)
    assert "bad magic" in listed[-1].error.message
    after = await read_all(connection.chat("still"))
    assert (started(after), text_of(after)) == (1, "still")
    assert text_of(before + await read_all(running)) == "la" * 200
    model = await model_of(connection)
    assert (model.version, model.HasField("error"), model.HasField("rolling")) == (1, False, False)
    assert pid in [instance.pid for instance in model.instances]


def asks(**wanted: Any) -> rp.Probe:
    """A probe of one prompt, which a model that repeats what it is given answers with itself."""
    chat = tp.ChatPrompt(messages=[tp.ChatMessage(role="user", content="hello")])
    return rp.Probe(prompts=[rp.ProbePrompt(chat=chat, most_tokens=16, **wanted)])


async def test_a_version_that_is_worse_by_its_probe_is_not_rolled_out(connection: Connection) -> None:
    """It is refused with the property and both values, agreement with what serves among them; a good one serves.

    No tenant has a task of it, and what is no pattern is refused before anything begins.
    """
    await connection.create()
    mute = str(write_fake_model(connection.folder, "mute", mute=True))
    for wanted, found in (
        ({"contains": ["ell"]}, ("contains", "'ell'", "''")),
        ({"agreement": 0.5}, ("agreement", "at least 0.5", "0 of 6 tokens")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await update(connection, source=mute, probe=asks(**wanted))
        reason, facts = reason_of(caught.value)
        assert (reason, facts["prompt"]) == ("PROBE_FAILED", "1")
        assert (facts["property"], facts["wanted"], facts["found"]) == found
    with pytest.raises(grpc.aio.AioRpcError, match=r"prompts\[0\].pattern is no pattern of RE2: missing"):
        await update(connection, source=mute, probe=asks(pattern="("))
    good = str(write_fake_model(connection.folder, "good"))
    wanted = {"pattern": "^h.*o$", "finish_reason": 1, "agreement": 1.0, "most_first_token": {"seconds": 30}}
    assert (await update(connection, source=good, probe=asks(**wanted))).model.version == 4
    assert [each.state for each in await versions(connection)] == [SERVING, FAILED, FAILED, RETIRED]
    listed = await connection.tasks.ListTasks(ts.ListTasksRequest())
    assert not listed.tasks
    assert (await model_of(connection)).probe == asks(**wanted)  # it is the model's from then on
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(connection, source=mute)
    assert reason_of(caught.value)[0] == "PROBE_FAILED"
    assert (await update(connection, source=mute, probe=rp.Probe())).model.version == 6
    assert not (await model_of(connection)).HasField("probe")


async def test_a_version_that_is_slower_than_its_steps_allow_is_taken_back(connection: Connection) -> None:
    """`UpdateModel` says with which numbers, the list has them too, and no task fails; a good one comes to serve."""
    await connection.create()
    for _ in range(3):
        await read_all(connection.chat("hello"))
    slow = str(write_fake_model(connection.folder, "slow", step_s=0.05))
    canary = rp.Canary(steps=[rp.CanaryStep(share=0.5, least_tasks=2)], most_token={"nanos": 25_000_000})
    updating = asyncio.ensure_future(update(connection, source=slow, canary=canary))
    began = list[int]()
    while not updating.done():
        told = await read_all(connection.chat("hello"))
        began.append(started(told))
        assert text_of(told) == "hello"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await updating
    reason, facts = reason_of(caught.value)
    assert (reason, facts["bound"], facts["step"], facts["failed"]) == ("CANARY_FAILED", "most_token", "1", "0")
    assert {1, 2} == {*began}
    found = (await versions(connection))[0]
    assert (found.state, found.canary.step, found.canary.tasks) == (FAILED, 1, int(facts["tasks"]))
    assert found.canary.token.ToMilliseconds() >= 25
    assert found.canary.HasField("old_token")
    good = str(write_fake_model(connection.folder, "good"))
    updating = asyncio.ensure_future(update(connection, source=good, canary=rp.Canary(steps=canary.steps)))
    while not updating.done():
        assert text_of(await read_all(connection.chat("hello"))) == "hello"
    assert (await updating).model.version == 3


async def test_a_version_that_dies_of_its_first_task_is_taken_back(connection: Connection) -> None:
    """The task goes on with the version before, whose worker stood by, and succeeds; both are told which served it."""
    await connection.create()
    await read_all(connection.chat("one"))
    pid = (await model_of(connection)).instances[0].pid
    deadly = write_fake_model(connection.folder, "deadly", die_on_token=ord("h"))
    assert (await update(connection, source=str(deadly))).model.version == 2
    told = await read_all(connection.chat("hello"))
    resumed = [event.resumed.version for event in told if event.HasField("resumed")]
    assert (started(told), resumed, text_of(told), told[-1].finished.receipt.version) == (2, [1], "hello", 1)
    found = await versions(connection)
    assert [(each.number, each.state) for each in found] == [(2, FAILED), (1, SERVING)]
    assert found[0].error.message
    assert [i.pid for i in (await model_of(connection)).instances if i.version == 1] == [pid]


async def test_a_version_without_room_beside_comes_after_the_old_as_was_said(connection: Connection) -> None:
    """`validate_only` tells the way and changes nothing; what runs ends, what comes waits, and none of it fails."""
    await connection.create(step_s=0.002, weights_bytes=int(0.6 * GIB))
    running = connection.endless(tokens=200)
    before = await read_until(running, "output")
    small = write_fake_model(connection.folder, "small")
    large = write_fake_model(connection.folder, "large", weights_bytes=int(0.7 * GIB))
    huge = write_fake_model(connection.folder, "huge", weights_bytes=2 * GIB)
    ways = [(await update(connection, source=str(path), validate_only=True)).plan for path in (small, large, huge)] + [
        (await update(connection, **same, validate_only=True)).plan for same in ({}, {"max_instances": 2})
    ]
    assert [plan.way for plan in ways] == [
        mp.ROLLOUT_WAY_BESIDE,
        mp.ROLLOUT_WAY_DRAINS,
        mp.ROLLOUT_WAY_NO_ROOM,
        mp.ROLLOUT_WAY_UNCHANGED,
        mp.ROLLOUT_WAY_BOUNDS,
    ]
    assert "new tasks wait" in ways[1].reason
    assert [each.number for each in await versions(connection)] == [1]
    updated, waiting = await asyncio.gather(update(connection, source=str(large)), read_all(connection.chat("wait")))
    assert updated.model.version == 2
    assert text_of(waiting) == "wait"
    assert text_of(before + await read_all(running)) == "la" * 100


async def test_an_update_whose_caller_has_gone_fails_without_a_traceback(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says in a line why the model is not changed."""
    begun, given_up, told = asyncio.Event(), asyncio.Event(), list[Any]()

    async def fails(*_: Any) -> None:
        begun.set()
        await given_up.wait()
        raise ModelBusyError("it was unloaded")

    await connection.create()
    monkeypatch.setattr(Versions, "update", fails)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    with capture_logs() as logs:
        call = connection.models.UpdateModel(ms.UpdateModelRequest(name="fake", max_instances=2), timeout=60)
        await asyncio.wait_for(begun.wait(), 60)
        (doing,) = (each for each in asyncio.all_tasks() if each.get_name() == "update of fake")
        call.cancel()
        given_up.set()
        await asyncio.wait([doing], timeout=60)
        del doing
        gc.collect()
        await asyncio.sleep(0)
    assert ("update of fake", "it was unloaded") in [(each.get("what"), each.get("why")) for each in logs]
    assert told == []


async def test_one_update_at_a_time(connection: Connection) -> None:
    """The second is refused with who is under way; one that is given up by its client goes on."""
    await connection.create()
    slow = write_fake_model(connection.folder, "slow", load_s=0.5)
    first = asyncio.ensure_future(update(connection, source=str(slow)))
    watched = connection.models.WatchModel(ms.WatchModelRequest(name="fake"))
    async for response in watched:
        if response.model.HasField("rolling"):
            break
    reason, metadata = await refusal(update(connection, settings={"context_tokens": "64"}))
    assert (reason, metadata["version"], metadata["by"]) == ("MODEL_BUSY", "2", "local")
    first.cancel()
    async for response in watched:
        if response.model.version == 2:
            break
    watched.cancel()
    back = (await update(connection, version=1)).model
    assert (back.version, back.source) == (1, str(connection.folder / "fake.fake"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 9}, "no version 9; it has 1"),
        ({"version": 1, "source": "/x"}, "there is source beside it"),
        ({"max_instances": 65}, "max_instances is 65"),
        ({"min_instances": 2}, "min_instances would be 2 and max_instances 1"),
        ({"settings": {"nonsense": "1"}}, "nonsense"),
        ({"settings": {"nonsense": ""}}, "has no setting 'nonsense'"),
        ({"settings": {"context_tokens": "9" * 20}}, f"is {'9' * 20}; it must be at most {(1 << 63) - 1}"),
        ({"device": "cpu:7"}, "cpu:7"),
    ],
)
async def test_an_update_that_cannot_be_is_refused_by_its_field(
    connection: Connection, changes: dict[str, Any], words: str
) -> None:
    """The error names the field, what it has and what it may have; nothing changes."""
    await connection.create()
    with pytest.raises(grpc.aio.AioRpcError, match=words):
        await update(connection, **changes)
    assert [each.number for each in await versions(connection)] == [1]


async def test_a_version_that_is_named_stays_what_it_is(connection: Connection) -> None:
    """`fake@1` and an alias of it are version 1 whatever the model becomes; it never changes, and goes with it."""
    await connection.create()
    await update(connection, source=str(write_fake_model(connection.folder, "mute", mute=True)))
    assert text_of(await read_all(connection.chat("hello"))) == ""
    await connection.models.UpdateModel(ms.UpdateModelRequest(name="fake@1", add_aliases=["prod"]))
    for name in ("fake@1", "prod"):
        assert text_of(await read_all(connection.chat("hello", model=name))) == "hello"
    reason, _ = await refusal(
        connection.models.UpdateModel(ms.UpdateModelRequest(name="prod", settings={"context_tokens": "64"}))
    )
    assert reason == "INVALID_FIELD"
    with pytest.raises(grpc.aio.AioRpcError, match="has no version 9; it has 1, 2"):
        await read_all(connection.chat("hello", model="fake@9"))
    await connection.models.DeleteModel(ms.DeleteModelRequest(name="fake", force=True))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in connection.models.WatchModel(ms.WatchModelRequest(name="fake@1"), timeout=60):
            pass
    assert reason_of(caught.value)[0] == "MODEL_NOT_FOUND"
