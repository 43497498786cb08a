"""What tasks are given and what models say is in no log, whatever becomes of the tasks."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.model_service_pb2 import TokenizeRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.sampling_pb2 import Choice, Grammar, SamplingParams
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, TaskSpec
from inferd_api.v1.task_service_pb2 import CancelTaskRequest, RunTaskRequest, SuspendTaskRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client import Client

pytestmark = pytest.mark.e2e

DEADLINE_S = 90.0
DEADLINES_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)  # some pass before the task comes, some in its end
ROUNDS = 20
LOUD = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "GRPC_VERBOSITY": "debug"}


class Teller:
    """Says everything that a client can say, each with the canary in it."""

    def __init__(self, address: str, canary: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.tasks: Any = TaskServiceStub(self.channel)
        self.models: Any = ModelServiceStub(self.channel)
        self.canary = canary

    def words(self, what: str) -> str:
        return f"{self.canary} {what}"

    def chat(self, *, role: str = "user", end: str = "") -> ChatPrompt:
        said = ChatMessage(role=role, content=self.words("content") + end, name=self.words("name"))
        called = ChatMessage(
            role="assistant", content=self.words("answer"), tool_calls_json=json.dumps([{"name": self.words("call")}])
        )
        tools = [{"type": "function", "function": {"name": self.words("tool")}}]
        return ChatPrompt(messages=[called, said], tools_json=json.dumps(tools))

    def run(self, *, timeout_s: float = DEADLINE_S, model: str = "fake", request_id: str = "", **spec: Any) -> Any:
        given = {"chat": self.chat()} if not {"chat", "prompt", "tokens"} & set(spec) else {}
        labels = {"label": self.words("label")}
        request = RunTaskRequest(spec=TaskSpec(model=model, labels=labels, **given, **spec), request_id=request_id)
        return self.tasks.RunTask(request, timeout=timeout_s)

    async def outcome(self, call: Any) -> tuple[str, str]:
        """How a task ended, and what it said or was told."""
        try:
            text = "".join([response.event.output.text async for response in call])
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", text


async def succeed(teller: Teller) -> None:
    """Tasks of which each option holds the canary, and which say it."""
    grammars = (
        Grammar(choice=Choice(texts=[teller.words("choice")])),
        Grammar(json_schema=json.dumps({"enum": [teller.words("schema")]})),
        Grammar(regex=teller.words("[a-z]")),
        Grammar(lark=f'start: "{teller.words("lark")}"'),
        None,
    )
    for grammar in grammars:
        sampling = SamplingParams(
            stop=[teller.words("stop")], bad_words=[teller.words("bad")], grammar=grammar, echo=True, logprobs=3
        )
        code, text = await teller.outcome(teller.run(sampling=sampling))
        assert code == "OK"
        assert text.count(teller.canary) > 2  # of the prompt, and of the output


async def be_refused(teller: Teller) -> None:
    """Tasks that are refused, by the kernel or by the worker, most with words of theirs in the error."""
    bad = "é" * 300
    for spec in (
        {"chat": teller.chat(role=teller.words("role"))},
        {"prompt": teller.words("prompt") * 500},
        {"sampling": SamplingParams(stop=[teller.words(bad)])},
        {"sampling": SamplingParams(grammar=Grammar(regex=teller.words("(")))},
        {"sampling": SamplingParams(grammar=Grammar(lark=teller.words("start: ")))},
        {"sampling": SamplingParams(grammar=Grammar(json_schema=teller.words("{")))},
        {"adapter": teller.words("adapter")},
        {"model": teller.words("model")},
        {"request_id": teller.words(bad)},
    ):
        assert (await teller.outcome(teller.run(**spec)))[0] in {"INVALID_ARGUMENT", "NOT_FOUND"}
    with pytest.raises(grpc.aio.AioRpcError):
        await teller.models.Tokenize(TokenizeRequest(model="fake", chat=teller.chat(role=teller.words("role"))))


async def fail(teller: Teller) -> None:
    """Tasks whose backend raises, with the prompt in its words, and tasks that kill their worker."""
    code, told = await teller.outcome(teller.run(chat=teller.chat(end="~"), prefix_cache=False))
    assert code == "INTERNAL"
    assert teller.canary in told  # so that the one who asked learns what went wrong; the log must not have it
    assert (await teller.outcome(teller.run(chat=teller.chat(end="#"))))[0] == "FAILED_PRECONDITION"


async def race(teller: Teller) -> None:
    """Tasks that end by a deadline, before and while they are answered, and by a cancel."""
    endless = SamplingParams(max_tokens=800, temperature=0)
    for _ in range(ROUNDS):
        calls = [
            teller.outcome(teller.run(prompt=teller.words("on"), sampling=endless, timeout_s=limit_s))
            for limit_s in DEADLINES_S
        ]
        assert {code for code, _ in await asyncio.gather(*calls)} <= {"OK", "DEADLINE_EXCEEDED"}
    call = teller.run(prompt=teller.words("on"), sampling=endless, model="slow")
    async for response in call:
        if response.event.HasField("output"):
            await teller.tasks.SuspendTask(SuspendTaskRequest(task_id=response.event.task_id))
            await teller.tasks.CancelTask(CancelTaskRequest(task_id=response.event.task_id))
            break
    assert (await teller.outcome(call))[0] == "CANCELLED"


def logs_of(kernel: KernelProcess) -> dict[str, str]:
    """All that a kernel and its workers wrote, by the name of the file."""
    paths = [kernel.folder / "kernel.log", *(kernel.folder / "state").rglob("*.log")]
    return {path.name: path.read_text(errors="replace") for path in paths}


def test_the_canary_is_in_no_log(tmp_path: Path) -> None:
    """Prompts, messages, tools, options, labels and outputs of tasks that succeed, fail, race or die are in no log."""
    canary = f"canary{uuid.uuid4().hex}"

    async def tell(address: str) -> None:
        teller = Teller(address, canary)
        async with asyncio.timeout(DEADLINE_S):
            for sing in (succeed, be_refused, fail, race):
                await sing(teller)
        await teller.channel.close()

    with kernel_process(tmp_path, environment=LOUD) as kernel, Client(kernel.address) as client:
        for name, step_s in (("fake", 0.0), ("slow", 0.01)):
            path = write_fake_model(
                tmp_path, name, step_s=step_s, fail_on_token=ord("~"), die_on_token=ord("#"), context_tokens=4096
            )
            client.create_model(name, source=str(path))
        asyncio.run(tell(kernel.address))
    logs = logs_of(kernel)
    assert "worker exited" in logs["kernel.log"]
    assert "defect" not in logs["kernel.log"]  # a call that is over is none
    assert any("the backend failed in a step" in text for text in logs.values())
    assert {name for name, text in logs.items() if canary in text} == set()
