"""Ensembles on a stream: each is run whole beside the others, told in its turn, and ended with its stream."""

import struct
from pathlib import Path
from typing import Any

import grpc
from test_model_repository import Code, put, refusal, serving

from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import ListTasksRequest, RunTaskRequest, WatchTasksRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_api.v1.tensor_pb2 import InferInput

NOT_TAKEN = -7.0
CHAIN = """
platform: "ensemble" input { name: "a" data_type: TYPE_FP32 dims: [ -1, -1 ] }
output { name: "c" data_type: TYPE_FP32 dims: [ -1, -1 ] }
ensemble_scheduling { step [
  { model_name: "first" model_version: -1 input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } },
  { model_name: "second" model_version: -1 input_map { key: "a" value: "b" } input_map { key: "b" value: "b" }
    output_map { key: "sum" value: "c" } } ] }
"""


def write(root: Path, **first: Any) -> None:
    put(root, "first", **first)
    put(root, "second", tensor="add")
    (root / "chain" / "1").mkdir(parents=True)
    (root / "chain" / "config.pbtxt").write_text(CHAIN)


def asked(value: float, *, model: str = "chain", name: str = "a", **parameters: int) -> gp.ModelInferRequest:
    request = gp.ModelInferRequest(model_name=model, id=str(value), raw_input_contents=[struct.pack("<f", value)])
    request.inputs.add(name=name, datatype="FP32", shape=[1, 1])
    for key, number in parameters.items():
        request.parameters[key].int64_param = number
    return request


async def test_ensembles_are_told_in_the_order_of_a_stream(tmp_path: Path) -> None:
    """Beside other models, each whole and as the last of its request; one that fails is told, and the rest goes on."""
    write(tmp_path / "models")
    async with serving(tmp_path) as served:
        requests = [
            *(asked(number) for number in range(12)),
            asked(NOT_TAKEN),
            asked(3, model="first", name="x"),
            asked(4, model="chain", name="wrong"),
            asked(5),
        ]
        told = [each async for each in served.stub.ModelStreamInfer(iter(requests))]
        assert [each.infer_response.id for each in told] == [each.id for each in requests]
        assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in told)
        given = [each.infer_response.raw_output_contents for each in told]
        assert [struct.unpack("<f", raws[0])[0] for raws in given if raws] == [
            *(2.0 * number for number in range(12)),
            3.0,
            10.0,
        ]
        failed = {place: each.error_message for place, each in enumerate(told) if each.error_message}
        assert sorted(failed) == [12, 14]
        assert failed[12].startswith("in ensemble 'chain', ")
        assert "unexpected inference input 'wrong' for model 'chain'" in failed[14]
        (last,) = [each async for each in served.stub.ModelStreamInfer(iter([asked(1)]))]
        assert (last.infer_response.model_name, last.infer_response.model_version) == ("chain", "1")
        code, words = await refusal(served.stub.ModelStreamInfer(iter([asked(NOT_TAKEN)]), metadata=ENDS).read())
        assert code is Code.INVALID_ARGUMENT
        assert "in ensemble 'chain'" in words


ENDS = (("triton_grpc_error", "true"),)


async def test_a_stream_that_breaks_ends_its_ensembles(tmp_path: Path) -> None:
    """Whoever cancels a stream leaves no task of an ensemble on it, whether it runs or waits."""
    write(tmp_path / "models", step_s=3600.0)
    async with serving(tmp_path) as served:
        tasks: Any = TaskServiceStub(served.channel)
        call = served.stub.ModelStreamInfer()
        for number in range(20):
            await call.write(asked(number, sequence_id=0))
        watching = tasks.WatchTasks(WatchTasksRequest())
        async for update in watching:
            if any(each.model == "first" for each in update.tasks):
                break
        call.cancel()
        watching.cancel()
        open_now = ["TASK_STATE_QUEUED", "TASK_STATE_RUNNING", "TASK_STATE_SUSPENDED"]
        watching = tasks.WatchTasks(WatchTasksRequest(states=open_now))
        async for _ in watching:
            if not (await tasks.ListTasks(ListTasksRequest(states=open_now))).tasks:
                break
        watching.cancel()


async def test_a_task_of_an_ensemble_is_refused_in_words(tmp_path: Path) -> None:
    """`RunTask` says what an ensemble is, what runs it, and of what it is made."""
    write(tmp_path / "models")
    async with serving(tmp_path) as served:
        spec = TaskSpec(model="chain", infer=InferInput())
        code, words = await refusal(TaskServiceStub(served.channel).RunTask(RunTaskRequest(spec=spec)).read())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is an ensemble of the model repository" in words
        assert words.endswith("run its models, first, second")
