"""What tasks are given, what models say, and credentials: in no log, no process, no metric and no error of others."""

import asyncio
import hashlib
import json
import socket
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2 import CreateKeyRequest, RotateKeyRequest
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.blob_service_pb2 import PutBlobRequest, PutBlobStart
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_api.v1.lease_pb2 import Claim, LeaseSpec, ModelClaim
from inferd_api.v1.lease_service_pb2 import CreateLeaseRequest
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_api.v1.model_service_pb2 import TokenizeRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.sampling_pb2 import Choice, Grammar, SamplingParams
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, TaskSpec
from inferd_api.v1.task_service_pb2 import (
    CancelTaskRequest,
    CreateTaskRequest,
    RunTaskRequest,
    SuspendTaskRequest,
)
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_api.v1.tensor_pb2 import ElementType, InferInput, StringElements, Tensor
from inferd_client import Client

pytestmark = pytest.mark.e2e

DEADLINE_S = 90.0
DEADLINES_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)  # some pass before the task comes, some in its end
ROUNDS = 20
LOUD = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "GRPC_VERBOSITY": "debug"}
Metadata = tuple[tuple[str, str], ...]


class Teller:
    """Says everything that a client can say, each with the canary in it."""

    def __init__(self, address: str, canary: str, metadata: Metadata = ()) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.tasks: Any = TaskServiceStub(self.channel)
        self.models: Any = ModelServiceStub(self.channel)
        self.leases: Any = LeaseServiceStub(self.channel)
        self.blobs: Any = BlobServiceStub(self.channel)
        self.canary = canary
        self.metadata = metadata

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
        return self.tasks.RunTask(request, timeout=timeout_s, metadata=self.metadata)

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
    request = TokenizeRequest(model="fake", chat=teller.chat(role=teller.words("role")))
    with pytest.raises(grpc.aio.AioRpcError):
        await teller.models.Tokenize(request, metadata=teller.metadata)


async def be_refused_elsewhere(teller: Teller) -> None:
    """Headers, ids, tensors, blobs, leases and bytes that are no UTF-8, all of which are refused."""
    spec = TaskSpec(model="fake", prompt="la")
    for header in (
        ("inferd-tenant", teller.words("tenant")),
        ("inferd-tenant", teller.canary),
        ("inferd-lease", teller.words("lease")),
        ("inferd-lease", teller.canary),
        ("authorization", f"Bearer {teller.canary}"),
        ("authorization", f"Bearer ik_{teller.canary}_{teller.canary}"),
        ("authorization", f"Bearer {teller.canary}.{teller.canary}.{teller.canary}"),
        ("authorization", teller.words("scheme")),
    ):
        kept = tuple(each for each in teller.metadata if each[0] != header[0])
        call = teller.tasks.RunTask(RunTaskRequest(spec=spec), metadata=(*kept, header))
        assert (await teller.outcome(call))[0] != "OK"
    texts = StringElements(values=[teller.words("element")])
    tensor = Tensor(name=teller.words("tensor"), element_type=ElementType.ELEMENT_TYPE_STRING, shape=[7], strings=texts)
    assert (await teller.outcome(teller.run(infer=InferInput(inputs=[tensor]), model="tensors")))[0] != "OK"
    claims = [Claim(model=ModelClaim(model=teller.words("model"), sequences=1))]
    lease = CreateLeaseRequest(spec=LeaseSpec(claims=claims, labels={"label": teller.words("label")}))
    with pytest.raises(grpc.aio.AioRpcError):
        await teller.leases.CreateLease(lease, metadata=teller.metadata)
    data = teller.words("blob").encode()
    wrong = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    put = teller.blobs.PutBlob(metadata=teller.metadata)
    await put.write(PutBlobRequest(start=PutBlobStart(digest=wrong, size_bytes=len(data))))
    await put.write(PutBlobRequest(chunk=data))
    await put.done_writing()
    with pytest.raises(grpc.aio.AioRpcError):
        assert not [each async for each in put]  # whatever it answers before
    raw = RunTaskRequest(spec=spec).SerializeToString().replace(b"la", b"\xff\xfe") + teller.canary.encode()
    broken = teller.channel.unary_stream("/inferd.v1.TaskService/RunTask")(raw, metadata=teller.metadata)
    with pytest.raises(grpc.aio.AioRpcError):
        await broken.read()


async def be_kept(teller: Teller) -> None:
    """Tasks that are to outlive the kernel, of which the store takes some, and some not."""
    for number in range(4):
        spec = TaskSpec(model="fake", prompt=teller.words(str(number)), labels={"label": teller.words("label")})
        try:
            await teller.tasks.CreateTask(CreateTaskRequest(spec=spec), metadata=teller.metadata)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - it may go well, too
    data = teller.words("of a blob").encode() * 9000
    put = teller.blobs.PutBlob(metadata=teller.metadata)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    await put.write(PutBlobRequest(start=PutBlobStart(digest=digest, size_bytes=len(data))))
    await put.write(PutBlobRequest(chunk=data))
    await put.done_writing()
    with suppress(grpc.aio.AioRpcError):  # as above
        assert [each async for each in put]


async def fail(teller: Teller) -> None:
    """Tasks whose backend raises, with the prompt in its words, and tasks that kill their worker."""
    code, told = await teller.outcome(teller.run(chat=teller.chat(end="~"), prefix_cache=False))
    assert code == "INTERNAL"
    assert "by the number" in told  # under which the log has it: the words may be those of a task beside it
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
            task_id, login = response.event.task_id, teller.metadata
            await teller.tasks.SuspendTask(SuspendTaskRequest(task_id=task_id), metadata=login)
            await teller.tasks.CancelTask(CancelTaskRequest(task_id=task_id), metadata=login)
            break
    assert (await teller.outcome(call))[0] == "CANCELLED"


def logs_of(kernel: KernelProcess) -> dict[str, str]:
    """All that a kernel and its workers wrote, by the name of the file."""
    paths = [kernel.folder / "kernel.log", *(kernel.folder / "state").rglob("*.log")]
    return {path.name: path.read_text(errors="replace") for path in paths}


def lying_about(kernel: KernelProcess, temporary: Path) -> Iterator[tuple[str, bytes]]:
    """Files that a kernel has or left: its store, the log of that, and blobs among them."""
    for path in (*kernel.folder.rglob("*"), *temporary.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes()


def processes_of(kernel: KernelProcess) -> list[psutil.Process]:
    """A kernel, and all that it has started."""
    return [psutil.Process(kernel.pid), *psutil.Process(kernel.pid).children(recursive=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def overhear(teller: Teller, other: Teller) -> list[str]:
    """What another tenant is told whose tasks share steps, workers and instances with those that fail."""
    told: list[str] = []
    endless = SamplingParams(max_tokens=800, temperature=0)
    for verse in (fail, fail):
        beside = [asyncio.create_task(other.outcome(other.run(prompt="la", sampling=endless))) for _ in range(4)]
        await verse(teller)
        for code, text in await asyncio.gather(*beside):
            assert code in {"OK", "INTERNAL", "UNAVAILABLE", "FAILED_PRECONDITION"}
            told.append(f"{code} {text}")
    return told


class Credentials:
    """Keys of a kernel, made by whoever may use its socket."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.auth: Any = AuthServiceStub(channel)
        self.secrets: list[str] = []

    def make(self, principal: str, role: str, tenant: str) -> Metadata:
        request = CreateKeyRequest(key=Key(principal=principal, roles=[role], tenants=[tenant]))
        made = self.auth.CreateKey(request)
        again = self.auth.RotateKey(RotateKeyRequest(key_id=made.key.key_id))
        self.secrets += [each.credential.rpartition("_")[2] for each in (made, again)]
        return (("authorization", f"Bearer {again.credential}"), ("x-unknown", self.secrets[0]))


def test_the_canary_is_nowhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tasks are given and say, and credentials, are in no log, process, metric, file, core or error of others."""
    canary = f"canary{uuid.uuid4().hex}"
    temporary = tmp_path_factory.mktemp("tmp")
    port = free_port()
    environment = LOUD | {
        "INFERD_BACKENDS": "[]",
        "INFERD_AUTH__REQUIRED": "true",
        "INFERD_METRICS_LISTEN": f"127.0.0.1:{port}",
        "INFERD_STORE__URL": f"sqlite:{tmp_path / 'state' / 'kernel.sqlite'}",
        "INFERD_FAILPOINTS": "store.begin=32*off->2*error(disk)",  # behind what makes models and keys ready
        "INFERD_CREDENTIAL": canary,
        "ELSEWHERE_TOKEN": canary,
        "OTEL_EXPORTER_OTLP_HEADERS": f"key={canary}",
        "INFERD_LOGS__FORMAT": "json",  # with a line for each task
        "INFERD_LOGS__LEVEL": "debug",
        "INFERD_LOGS__TASKS_PER_S": "1000",
        "TMPDIR": str(temporary),
    }
    unix = f"unix:{tmp_path / 's'}"

    async def tell(address: str, mine: Metadata, others: Metadata) -> list[str]:
        teller, other = Teller(address, canary, mine), Teller(address, canary, others)
        async with asyncio.timeout(DEADLINE_S):
            for verse in (succeed, be_refused, be_refused_elsewhere, be_kept, race):
                await verse(teller)
            told = await overhear(teller, other)
        await teller.channel.close()
        await other.channel.close()
        return told

    with kernel_process(tmp_path, environment=environment, listen="127.0.0.1:0", besides=(unix,)) as kernel:
        with Client(unix) as client, grpc.insecure_channel(unix) as channel:
            for name, behaviour in (("fake", {}), ("slow", {"step_s": 0.01}), ("tensors", {"tensor": "identity"})):
                faults = {} if "tensor" in behaviour else {"fail_on_token": ord("~"), "die_on_token": ord("#")}
                path = write_fake_model(tmp_path, name, **faults, **behaviour, context_tokens=4096)
                client.create_model(name, source=str(path))
            keys = Credentials(channel)
            mine, others = keys.make("anna", "user", "one"), keys.make("otto", "user", "two")
        told = asyncio.run(tell(kernel.address, mine, others))
        shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
        secrets = [canary, *keys.secrets]
        assert "inferd_" in shown.decode()
        assert not [each for each in secrets if each.encode() in shown]
        assert not [text for text in told if any(each in text for each in (*secrets, str(tmp_path), ".py"))]
        started = processes_of(kernel)
        assert len(started) > 3
        for process in started:
            assert not [each for each in secrets if each in " ".join(process.cmdline())]
            found = [each for each in secrets if each in " ".join(process.environ().values())]
            assert found == ([canary] if process.pid == kernel.pid else [])  # it was given that
            cores = Path(f"/proc/{process.pid}/limits").read_text().partition("Max core file size")[2].split()
            assert cores[:2] == ["1", "1"]
    logs = logs_of(kernel)
    assert "worker exited" in logs["kernel.log"]
    assert "cannot be written" in logs["kernel.log"]
    assert "defect" not in logs["kernel.log"]  # a call that is over is none
    assert "incident" in logs["kernel.log"]
    assert any("the backend failed in a step" in text for text in logs.values())
    assert [name for name, data in lying_about(kernel, temporary) if any(s.encode() in data for s in secrets)] == []
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("core")]
