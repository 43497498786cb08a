"""What is told of the inside of a kernel, and to whom."""

from pathlib import Path
from typing import Any

import pytest
from connection import info_of, read_failing, reason_of, refusal
from guarded import Metadata, guarded

from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


async def test_words_of_the_inside_are_for_those_who_change_models(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A backend's exception, why a model is not loaded, a path: operators read them, others a number of the log."""
    async with guarded(tmp_path) as kernel:
        await kernel.owner.create("fake", fail_on_token=ord("~"))
        path = write_fake_model(tmp_path, "broken", fail_at=0.5)
        await kernel.owner.models.CreateModel(ms.CreateModelRequest(model=mp.Model(name="broken", source=str(path))))
        user, operator = await kernel.login("user"), await kernel.login("operator")

        async def told(metadata: Metadata, model: str, text: str) -> tuple[str, dict[str, str], str, str]:
            """How a task fails; and what is said of it afterwards."""
            events, error = await read_failing(kernel.tcp.chat(text, model=model, metadata=metadata))
            reason, facts = reason_of(error)
            later = ""
            if events:
                get = ts.GetTaskRequest(task_id=events[0].task_id)
                later = str(await kernel.tcp.tasks.GetTask(get, metadata=metadata))
            return reason, facts, error.details() or "", later

        for model, text, words in (("fake", "secret ~", "secret"), ("broken", "la", "fail_at")):
            for metadata, knows in ((operator, True), (user, False)):
                reason, facts, message, later = await told(metadata, model, text if knows else f"{text} again")
                assert reason in {"BACKEND_FAILED", "MODEL_LOAD_FAILED"}
                found = f"{message} {facts}"
                assert knows == ("log" in facts), reason
                assert knows == (str(tmp_path) in f"{found} {later}"), found
                assert knows == ("incident" not in facts)
                if not knows:
                    assert words not in found
                    assert facts["incident"] in message
                    out = capfd.readouterr()
                    assert facts["incident"] in out.out + out.err
        seen: Any = [
            await kernel.tcp.models.GetModel(ms.GetModelRequest(name="fake"), metadata=each)
            for each in (operator, user)
        ]
        assert [bool(each.model.instances[0].log_path) for each in seen] == [True, False]
        backends = await kernel.tcp.hosts.ListBackends(hs.ListBackendsRequest(), metadata=user)
        assert not any(each.log_path for each in backends.backends)


async def test_errors_about_a_model_name_it(tmp_path: Path) -> None:
    """The error of a call that names a model, of an order among several, and of a task that is read later name it."""
    async with guarded(tmp_path) as kernel:
        await kernel.owner.create("fake", fail_on_token=ord("~"))
        user = await kernel.login("user")
        call = kernel.tcp.models.GetModel(ms.GetModelRequest(name="none"), metadata=user)
        assert (await refusal(call))[1]["model"] == "none"
        orders = kernel.tcp.tasks.RunTasks(metadata=user)
        for tag, model in enumerate(("fake", "none")):
            spec = tp.TaskSpec(model=model, prompt="~")
            run = ts.RunOrder(request=ts.RunTaskRequest(spec=spec))
            await orders.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=tag, run=run)]))
        await orders.done_writing()
        updates = [update async for response in orders for update in response.updates]
        ended = next(update.event for update in updates if update.event.HasField("finished"))
        assert info_of(ended.finished.error)[1]["model"] == "fake"
        (refused,) = (update.error for update in updates if update.HasField("error"))
        assert info_of(refused)[1]["model"] == "none"
        task_id = next(update.event.task_id for update in updates if update.event.task_id)
        later = await kernel.tcp.tasks.GetTask(ts.GetTaskRequest(task_id=task_id), metadata=user)
        assert info_of(later.task.finished.error)[1]["model"] == "fake"
