"""A kernel of the wire only: it speaks `inferd.v1` and plays a fixed part for each model name."""

# ruff: noqa: N802 - gRPC names the methods of a servicer like the RPCs

import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from functools import cache
from typing import Any

import grpc
import pytest
import typer.testing
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import optimize_pb2 as op
from inferd_api.v1 import task_pb2 as tp

ANSWER = ("The capital", " of France", " is Paris", " 🗼.")


def status(
    code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None = None, retry_s: float = 0.0
) -> status_pb2.Status:
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="inferd", metadata=metadata)]
    if retry_s:
        delay = Duration()
        delay.FromMilliseconds(int(retry_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if reason == "INVALID_FIELD":
        violation = error_details_pb2.BadRequest.FieldViolation(field="spec.sampling.top_p", description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = [Packed() for _ in details]
    for into, detail in zip(packed, details, strict=True):
        into.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def abort(context: Any, problem: status_pb2.Status) -> None:
    """End the call with a status and its details, as the services do."""
    context.set_trailing_metadata((("grpc-status-details-bin", problem.SerializeToString()),))
    code = next(code for code in grpc.StatusCode if code.value[0] == problem.code)
    context.abort(code, problem.message)


NOT_FOUND = status(
    grpc.StatusCode.NOT_FOUND,
    "MODEL_NOT_FOUND",
    "no model 'ecko'; did you mean 'echo'?",
    {"suggestion": "echo"},
)
DIED = status(
    grpc.StatusCode.UNAVAILABLE,
    "WORKER_DIED",
    "the worker died: killed by signal 9",
    {"cause": "killed by signal 9", "log": "/state/echo.log"},
)
NO_TEMPLATE = status(grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_INPUT", "model 'plain' has no chat template")
BAD_TOP_P = status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "top_p is 2; it must be in (0, 1]")
FULL = status(
    grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "1000 of 1000 tasks wait", {"limit": "1000"}, retry_s=1.5
)
LATE = status(grpc.StatusCode.DEADLINE_EXCEEDED, "TASK_EXPIRED", "the deadline passed while the task was QUEUED")
HOSTILE = "\x1b[31mred \x9b2J \x1b]52;c;cm0gLXJm\x07 \u202edetrevni\u202c \x7f\x08 tab\tline\r\nend\r"
"""What a terminal would obey: colours, an 8-bit CSI, a write to the clipboard, turned words, and what only moves."""
HOSTILE_ERROR = status(
    grpc.StatusCode.UNAVAILABLE, "WORKER_DIED", f"the worker died: {HOSTILE} [red]:cat:[/red]", {"log": HOSTILE}
)
REFUSALS = {"hostile-error": HOSTILE_ERROR, "ecko": NOT_FOUND, "full": FULL, "invalid": BAD_TOP_P}


class ScriptedTasks(task_service_pb2_grpc.TaskServiceServicer):
    """Models by name: `echo` answers, `broken` fails half-way, `endless` never ends, `silent` stays queued."""

    def __init__(self, kernel: "ScriptedKernel") -> None:
        self.kernel = kernel

    def RunTasks(self, requests: Any, context: Any) -> Iterator[Any]:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        left: dict[int, threading.Event] = {}
        context.add_callback(lambda: told.put(None))
        context.add_callback(self.kernel.ended.set)
        threading.Thread(target=self.read, args=(requests, told, left, context), daemon=True).start()
        while (update := told.get()) is not None:
            yield task_service_pb2.RunTasksResponse(updates=[update])
        for event in left.values():
            event.set()

    def read(self, requests: Any, told: Any, left: dict[int, threading.Event], context: Any) -> None:
        with suppress(grpc.RpcError):  # the call broke
            for request in requests:
                for order in request.orders:
                    self.take(order, told, left.setdefault(order.tag, threading.Event()), context)
        told.put(None)

    def take(self, order: Any, told: Any, left: threading.Event, context: Any) -> None:
        if order.HasField("leave"):
            left.set()
            self.kernel.ended.set()
        elif order.HasField("run"):
            request = order.run.request
            timeout_s = order.run.timeout.seconds + order.run.timeout.nanos / 1e9
            self.kernel.note(request, context, timeout_s if order.run.HasField("timeout") else None)
            model = request.spec.model
            refused = REFUSALS.get(model, NOT_FOUND if model not in self.kernel.models else None)
            if model == "plain" and request.spec.HasField("chat"):
                refused = NO_TEMPLATE
            self.tell(order.tag, model, refused, told, left, timeout_s=timeout_s)
        elif order.HasField("watch"):
            request = order.watch.request
            self.kernel.note(request, context)
            gone = status(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", "no task 't-gone'")
            model = "broken" if request.task_id == "t-broken" else "echo"
            refused = gone if request.task_id == "t-gone" else None
            self.tell(order.tag, model, refused, told, left, after=request.after_sequence)

    def tell(
        self,
        tag: int,
        model: str,
        refused: Any,
        told: Any,
        left: threading.Event,
        *,
        after: int = 0,
        timeout_s: float = 0.0,
    ) -> None:
        """Answer an order, from a thread of its own where there is an answer."""
        if refused is not None:
            told.put(task_service_pb2.TaskUpdate(tag=tag, error=refused))
            return

        def speak() -> None:
            for each in self.events(model, left, timeout_s):
                if each.sequence > after:
                    told.put(task_service_pb2.TaskUpdate(tag=tag, event=each))

        threading.Thread(target=speak, daemon=True).start()

    def events(self, model: str, left: threading.Event, timeout_s: float) -> Iterator[tp.TaskEvent]:
        yield event(1, queued=tp.Queued(position=2))
        if model == "silent":
            left.wait(timeout_s or 60)
            yield event(2, finished=tp.Finished(state=tp.TASK_STATE_EXPIRED, error=LATE))
            return
        yield event(2, started=tp.Started(instance_id="i-1", attempt=1))
        yield event(3, progress=tp.Progress(phase=tp.PHASE_LOAD, fraction=0.5))
        yield event(4, progress=tp.Progress(phase=tp.PHASE_PREFILL, fraction=1.0))
        number = 5
        while model == "endless" and not left.wait(0.001):
            yield event(number, output=tp.Output(text="la ", token_ids=[7]))
            number += 1
        answer = HOSTILE if model == "hostile" else ANSWER
        for number, text in enumerate(answer, start=number):  # noqa: B020 - goes on counting
            yield event(number, output=tp.Output(text=text, token_ids=[number, number + 100]))
            if model == "broken":
                yield event(number + 1, finished=tp.Finished(state=tp.TASK_STATE_FAILED, error=DIED))
                return
        ended = finished()
        if model == "long":
            ended.reason = tp.FINISH_REASON_MAX_TOKENS
        yield event(number + 1, finished=ended)

    def GetTask(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        return task_service_pb2.GetTaskResponse(task=tp.Task(task_id=request.task_id, state=tp.TASK_STATE_RUNNING))

    def CreateTask(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        task = tp.Task(task_id="t-9", model=request.spec.model, state=tp.TASK_STATE_QUEUED)
        return task_service_pb2.CreateTaskResponse(task=task)

    def ListTasks(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        first = not request.page_token
        names = ["t-3", "t-2"] if first else ["t-1"]
        tasks = [
            tp.Task(task_id=name, model="echo", state=tp.TASK_STATE_SUCCEEDED, finished=finished()) for name in names
        ]
        return task_service_pb2.ListTasksResponse(tasks=tasks, next_page_token="2" if first else "")

    def WatchTasks(self, request: Any, context: Any) -> Iterator[Any]:
        self.kernel.note(request, context)
        tasks = [tp.Task(task_id=name, model="echo", state=tp.TASK_STATE_RUNNING) for name in ("t-2", "t-1")]
        yield task_service_pb2.WatchTasksResponse(anew=True, tasks=tasks)
        failed = tp.Task(task_id="t-1", model="echo", state=tp.TASK_STATE_FAILED, finished=tp.Finished(error=DIED))
        yield task_service_pb2.WatchTasksResponse(tasks=[failed], forgotten_task_ids=["t-2"])

    def CancelTask(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        task = tp.Task(task_id=request.task_id, model="echo", state=tp.TASK_STATE_CANCELLED)
        return task_service_pb2.CancelTaskResponse(task=task)


class ScriptedModels(model_service_pb2_grpc.ModelServiceServicer):
    """Keeps what is created; `echo` has an instance that is READY."""

    def __init__(self, kernel: "ScriptedKernel") -> None:
        self.kernel = kernel

    def found(self, name: str, context: Any) -> mp.Model:
        if name not in self.kernel.models:
            abort(context, NOT_FOUND)
        return self.kernel.models[name]

    def CreateModel(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        known = self.kernel.models.setdefault(request.model.name, request.model)
        if known.source != request.model.source:
            abort(context, status(grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS", "exists with other contents"))
        return model_service_pb2.CreateModelResponse(model=known)

    def GetModel(self, request: Any, context: Any) -> Any:
        return model_service_pb2.GetModelResponse(model=self.found(request.name, context))

    def GetModelSignature(self, request: Any, context: Any) -> Any:
        self.found(request.model, context)
        abort(context, status(grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_INPUT", "the model reads text"))

    def ListModels(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        names = sorted(self.kernel.models)
        page = names[:1] if not request.page_token else names[1:]
        more = "rest" if not request.page_token and len(names) > 1 else ""
        models = [self.kernel.models[name] for name in page]
        return model_service_pb2.ListModelsResponse(models=models, next_page_token=more)

    def LoadModel(self, request: Any, context: Any) -> Any:
        model = self.found(request.name, context)
        if request.name == "broken":
            metadata = {"cause": "tensor 'x' is cut off", "log": "/state/broken.log"}
            problem = status(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED", "cut off", metadata)
            abort(context, problem)
        return model_service_pb2.LoadModelResponse(model=model)

    def UnloadModel(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        model = self.found(request.name, context)
        return model_service_pb2.UnloadModelResponse(model=model, returned_bytes=900_000_000)

    def UpdateModel(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        model = self.found(request.name, context)
        if request.validate_only:
            way = mp.ROLLOUT_WAY_NO_ROOM if request.source else mp.ROLLOUT_WAY_BESIDE
            plan = model_service_pb2.RolloutPlan(way=way, reason="as it is", load=model_service_pb2.LoadPlan())
            return model_service_pb2.UpdateModelResponse(model=model, plan=plan)
        model.version += self.kernel.next_version
        if not self.kernel.next_version:
            for name, value in request.settings.items():
                model.settings[name] = value
                if not value:
                    del model.settings[name]
            model.max_instances = request.max_instances or model.max_instances
        return model_service_pb2.UpdateModelResponse(model=model)

    def ListModelVersions(self, request: Any, context: Any) -> Any:
        self.found(request.name, context)
        return model_service_pb2.ListModelVersionsResponse(versions=self.kernel.versions)

    def OptimizeModel(self, request: Any, context: Any) -> Iterator[Any]:
        self.kernel.note(request, context)
        self.found(request.model, context)
        yield from self.kernel.tried

    def DeleteModel(self, request: Any, context: Any) -> Any:
        if (instances := self.found(request.name, context).instances) and not request.drain:
            counts = {"instances": "1", "tasks": str(instances[0].running_tasks), "leases": "0"}
            abort(context, status(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_BUSY", "it has 1 instance", counts))
        del self.kernel.models[request.name]
        return model_service_pb2.DeleteModelResponse()

    def PlanLoad(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        return model_service_pb2.PlanLoadResponse(plan=model_service_pb2.LoadPlan(fits=True))

    def Tokenize(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        self.found(request.model, context)
        text = request.chat.messages[0].content if request.HasField("chat") else request.prompt
        return model_service_pb2.TokenizeResponse(token_ids=list(text.encode()))

    def WatchModel(self, request: Any, context: Any) -> Iterator[Any]:
        model = self.found(request.name, context)
        context.add_callback(self.kernel.ended.set)
        yield model_service_pb2.WatchModelResponse(model=model)
        self.kernel.ended.wait(60)


class ScriptedHost(host_service_pb2_grpc.HostServiceServicer):
    """A host with one backend that works and one that is broken."""

    def __init__(self, kernel: "ScriptedKernel") -> None:
        self.kernel = kernel

    def GetHost(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        if self.kernel.bare_refusal is not None:
            context.abort(self.kernel.bare_refusal, "said the transport")
        return host_service_pb2.GetHostResponse(host=hp.Host(name="here", version="0.1.0", pid=1))

    def ListBackends(self, request: Any, context: Any) -> Any:
        self.kernel.note(request, context)
        if not request.page_token:
            device = hp.Device(device_id="cpu:0", description="2 cores", memory_bytes=24 << 30, cores=2)
            ready = hp.Backend(name="cpu", state=hp.BACKEND_STATE_READY, devices=[device], formats=["gguf"])
            return host_service_pb2.ListBackendsResponse(backends=[ready], next_page_token="2")  # noqa: S106 - a page
        broken = hp.Backend(name="torch", state=hp.BACKEND_STATE_SKIPPED, why="torch is not installed", fix="pip …")
        return host_service_pb2.ListBackendsResponse(backends=[broken])


class ScriptedHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # its package has no types
    """The kernel serves; other services are unknown."""

    def Check(self, request: Any, context: Any) -> Any:
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class ScriptedKernel:
    """A running server and what it was told.

    Attributes:
        address: Where it listens.
        models: Models by name.
        versions: Versions of whichever model.
        tried: What is told of an optimisation of whichever model.
        requests: Every request, in order.
        tenants: The tenant of each request.
        timeouts_s: Time left to each call when it came, None without a deadline.
        ended: Set when a stream ended, whoever ended it.
        bare_refusal: Status with which `GetHost` ends, without details.
    """

    def __init__(self) -> None:
        ready = mp.Instance(
            instance_id="i-1",
            model="echo",
            state=mp.INSTANCE_STATE_READY,
            backend="cpu",
            device="cpu:0",
            device_reason="more is free there",
            pid=4242,
            memory_bytes=900_000_000,
            running_tasks=1,
            max_tasks=8,
        )
        ready.start_time.FromSeconds(int(time.time()) - 7200)
        names = ("endless", "silent", "broken", "plain", "hostile", "hostile-error")
        self.models = {name: mp.Model(name=name, source=f"/m/{name}", state=mp.MODEL_STATE_UNLOADED) for name in names}
        self.versions: list[mp.ModelVersion] = []
        self.tried: list[op.OptimizeModelResponse] = []
        self.next_version = 1  # how much an update adds
        self.models["echo"] = mp.Model(
            name="echo", source="/m/echo", state=mp.MODEL_STATE_READY, backend="cpu", instances=[ready], size_bytes=98
        )
        self.requests: list[Any] = []
        self.tenants: list[str] = []
        self.timeouts_s: list[float | None] = []
        self.ended = threading.Event()
        self.bare_refusal: grpc.StatusCode | None = None
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(ScriptedTasks(self), self.server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ScriptedModels(self), self.server)
        host_service_pb2_grpc.add_HostServiceServicer_to_server(ScriptedHost(self), self.server)
        health_pb2_grpc.add_HealthServicer_to_server(ScriptedHealth(), self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def note(self, request: Any, context: Any, timeout_s: float | None = None) -> None:
        self.requests.append(request)
        metadata = dict(context.invocation_metadata())
        self.tenants.append(metadata.get("inferd-tenant", ""))
        self.timeouts_s.append(timeout_s or context.time_remaining())


def event(sequence: int, **kind: Any) -> tp.TaskEvent:
    return tp.TaskEvent(task_id="t-1", sequence=sequence, **kind)


def finished() -> tp.Finished:
    receipt = tp.Receipt(backend="cpu", device="cpu:0", worker_memory_bytes=900_000_000)
    receipt.queue_duration.FromMilliseconds(100)
    receipt.first_token_duration.FromMilliseconds(210)
    receipt.run_duration.FromMilliseconds(1110)
    usage = tp.Usage(prompt_tokens=12, output_tokens=8)
    return tp.Finished(state=tp.TASK_STATE_SUCCEEDED, reason=tp.FINISH_REASON_END_OF_TEXT, usage=usage, receipt=receipt)


@pytest.fixture(scope="session", autouse=True)
def _one_tree_of_commands() -> Iterator[None]:
    """The commands are made of their functions once, as in each process of a user, and not for each call of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.testing._get_command))
        yield


@pytest.fixture
def scripted() -> Iterator[ScriptedKernel]:
    """A `ScriptedKernel` that listens on a free port of the loopback interface."""
    kernel = ScriptedKernel()
    yield kernel
    kernel.ended.set()
    kernel.server.stop(grace=None).wait(10)


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address of the loopback interface where nobody listens, nor can."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
