"""Programs of a model repository: a `model.py` is run in its worker where it is named, and by nobody's asking else."""

import json
import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
from test_model_repository import refusal, serving
from time_limits import LONG_S

from inferd.services.inference.tensors import write_texts
from inferd_api.inference import grpc_service_pb2 as gp

Code = grpc.StatusCode

SUMS = '''
import json
import os
import socket
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

import helper


class TritonPythonModel:
    """Sums and differences; what it refuses and how it fails is up to its numbers."""

    @staticmethod
    def auto_complete_config(config):
        for name in ("A", "B"):
            config.add_input({"name": name, "data_type": "TYPE_INT32", "dims": [-1]})
        for name in ("SUM", "DIFFERENCE"):
            config.add_output({"name": name, "data_type": "TYPE_INT32", "dims": [-1]})
        config.set_max_batch_size(4)
        return config

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.offset = int(self.config["parameters"]["offset"]["string_value"])
        assert pb_utils.triton_string_to_numpy(
            pb_utils.get_output_config_by_name(self.config, "SUM")["data_type"]
        ) is np.int32
        assert args["model_name"] == "sums" and args["model_version"] == "1", args
        assert Path(args["model_repository"], "labels.txt").read_text() == "labels"

    def execute(self, requests):
        answers = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "A").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "B").as_numpy()
            if a.min() == -1:
                error = pb_utils.TritonError("A is -1", pb_utils.TritonError.INVALID_ARG)
                answers.append(pb_utils.InferenceResponse(error=error))
                continue
            if a.min() == -2:
                raise KeyError("lost")
            if a.min() == -3:
                os._exit(3)
            if a.min() == -4:
                socket.create_connection(("127.0.0.1", 9), timeout=5)
            if a.min() == -5:
                Path(__file__).with_name("written").write_text("no")
            answers.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("SUM", helper.add(a, b) + self.offset),
                pb_utils.Tensor("DIFFERENCE", a - b),
            ]))
        return answers
'''
SUMS_CONFIG = 'backend: "python" parameters { key: "offset" value { string_value: "0" } }'
REPEAT = """
import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            (text,) = [each.as_numpy() for each in request.inputs()]
            sender = request.get_response_sender()
            if text[0].startswith(b"now"):
                self.tell(sender, text)
            else:
                threading.Thread(target=self.tell, args=(sender, text)).start()

    def tell(self, sender, text):
        for number in range(40):
            told = np.array([text[0] + str(number).encode()], np.object_)
            if text[0] == b"fails" and number == 2:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("enough")))
            else:
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", told)]))
            if sender.is_cancelled():
                break
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
REPEAT_CONFIG = """
backend: "python" model_transaction_policy { decoupled: true }
input { name: "IN" data_type: TYPE_STRING dims: 1 } output { name: "OUT" data_type: TYPE_STRING dims: 1 }
"""


def program(root: Path, name: str, text: str, config: str, version: int = 1) -> Path:
    """A version of a model that is a program; its file."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(config)
    path = folder / "model.py"
    path.write_text(text)
    return path


def sums(a: int, b: int, rows: int = 1) -> gp.ModelInferRequest:
    """A request of two numbers for each row."""
    request = gp.ModelInferRequest(model_name="sums")
    for name, value in (("A", a), ("B", b)):
        request.inputs.add(name=name, datatype="INT32", shape=[rows, 2])
        request.raw_input_contents.append(struct.pack("<i", value) * 2 * rows)
    return request


def text(value: str) -> gp.ModelInferRequest:
    """A request of a text."""
    request = gp.ModelInferRequest(model_name="repeat", raw_input_contents=[write_texts([value])])
    request.inputs.add(name="IN", datatype="BYTES", shape=[1])
    return request


@pytest.mark.timeout(2 * LONG_S)  # workers that import numpy, on a machine that may be busy
async def test_a_program_is_run_where_it_is_named(tmp_path: Path) -> None:
    """It completes its configuration, reads its folder and parameters, computes, refuses and fails by request alone."""
    root = tmp_path / "models"
    path = program(root, "sums", SUMS, SUMS_CONFIG)
    path.with_name("helper.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "sums" / "labels.txt").write_text("labels")
    program(root, "repeat", REPEAT, REPEAT_CONFIG)
    program(root, "other", SUMS, SUMS_CONFIG)
    async with serving(tmp_path, mode="explicit", load=("*",), programs=("sums", "rep*")) as served:
        state, why = (await served.index())["other", "1"]
        assert state == "UNAVAILABLE"
        assert "repository.programs" in why
        assert "--allow-program other" in why
        config = (await served.stub.ModelConfig(gp.ModelConfigRequest(name="sums"))).config
        assert [each.name for each in (*config.input, *config.output)] == ["A", "B", "SUM", "DIFFERENCE"]
        assert config.backend == "python"
        got = await served.stub.ModelInfer(sums(5, 3, rows=2))
        assert [struct.unpack("<4i", raw) for raw in got.raw_output_contents] == [(8,) * 4, (2,) * 4]
        code, words = await refusal(served.stub.ModelInfer(sums(-1, 3)))
        assert (code, "A is -1" in words) == (Code.INVALID_ARGUMENT, True)
        code, words = await refusal(served.stub.ModelInfer(sums(-2, 3)))
        assert code is Code.INTERNAL
        assert "Failed to process the request(s) for model instance 'sums_0', message: KeyError: 'lost'" in words
        for wall in (-4, -5):  # its worker has no network, and writes nothing there
            code, _ = await refusal(served.stub.ModelInfer(sums(wall, 3)))
            assert code is Code.INTERNAL
        assert not path.with_name("written").exists()
        for value in ("now", "later"):
            told = [each async for each in served.stub.ModelStreamInfer(iter([text(value)]))]
            assert not any(each.error_message for each in told)
            texts = [raw[4:].decode() for each in told for raw in each.infer_response.raw_output_contents]
            assert texts == [f"{value}{number}" for number in range(40)]
        *_, last = [each async for each in served.stub.ModelStreamInfer(iter([text("fails")]))]
        assert "enough" in last.error_message
        code, _ = await refusal(served.stub.ModelInfer(text("now")))
        assert code is Code.UNIMPLEMENTED
        call = served.stub.ModelStreamInfer(iter([text("later")]))
        await call.read()
        call.cancel()  # its program is told, and goes on with others
        got = await served.stub.ModelInfer(sums(1, 1))
        assert struct.unpack("<2i", got.raw_output_contents[0]) == (2, 2)


@pytest.mark.timeout(2 * LONG_S)
async def test_no_call_brings_a_program_of_its_own(tmp_path: Path) -> None:
    """A load gives no `model.py`, though its model may be one; what is taken off the list is run by no later kernel."""
    root, store = tmp_path / "models", {"url": f"sqlite:{tmp_path / 'kernel.sqlite'}"}
    program(root, "repeat", REPEAT, REPEAT_CONFIG)
    async with serving(tmp_path, store=store, mode="explicit", programs=("repeat",)) as served:
        await served.load("repeat")
        given: dict[str, Any] = {"config": json.dumps({"backend": "python"}), "file__1/model.py": REPEAT.encode()}
        for name in ("repeat", "new"):
            code, words = await refusal(served.load(name, **given))
            assert (code, "never one that a load gives" in words) == (Code.INVALID_ARGUMENT, True)
        program(root, "repeat", "import nothing_of_this_name", REPEAT_CONFIG)
        code, words = await refusal(served.load("repeat"))
        assert code is Code.INVALID_ARGUMENT
        assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in words
        told = [each async for each in served.stub.ModelStreamInfer(iter([text("now")]))]  # it serves as it was
        assert len(told) >= 40
        program(root, "repeat", REPEAT, REPEAT_CONFIG)
        await served.load("repeat")
    async with serving(tmp_path, store=store, mode="none") as served:
        assert not await served.ready("repeat")
        assert "repository.programs" in (await served.index())["repeat", "1"][1]
    async with serving(tmp_path, store=store, mode="none", programs=("repeat",)) as served:
        assert await served.ready("repeat")
