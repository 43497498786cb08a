"""`make probes`: can a tenant tell by bytes or by time what another one has?

Ids: for each call that takes one, ids that are not there and ids of another tenant are asked for in turns, in pairs of
random order. Answers must have the same bytes once the id is taken out, and the 95 % interval of the median difference
of the times must lie within 20 us. Prompts: what another tenant has computed, and what nobody has, in pairs: by the
time to the first token no more than an AUC of 0.55 may come; one's own prompts show what there would be to see.

One JSON line for each. It fails where bytes differ, and with `--judge`, for a machine that does nothing else, by times
too. With `--report FILE` it goes on where the run before it stopped, and `--seconds` ends it: a long measurement is
made in parts. It returns 2 where pairs are left for the next one. The model is the fake one, which takes half a
millisecond for each 32 tokens that it has to compute.
"""

import argparse
import hashlib
import json
import math
import queue
import random
import secrets
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from probe_report import Part, Report

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import blob_service_pb2 as bs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import upload_service_pb2 as us
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_api.v1.lease_pb2 import Claim, LeaseSpec, MemoryClaim
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_api.v1.tensor_pb2 import BlobElements, ElementType, InferInput, Tensor, UploadedElements
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub
from inferd_client import Client

TOKENS = (1, 16, 64, 256, 512)
OWNED = 20  # things of each kind that the other tenant has
STEP_S = 0.0005
MODEL = {"step_s": STEP_S, "context_tokens": 2048, "max_step_tokens": 32, "block_tokens": 16, "blocks": 4096}
WORKED = 8  # pairs of a part before the first that counts
PART = 250  # pairs
UNFINISHED = 2  # what is returned

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that takes an id.

    Attributes:
        name: Of it.
        ids: Those of the other tenant.
        ask: Makes it.
    """

    name: str
    ids: list[str]
    ask: Callable[[str], Any]


class Tenant:
    """One who asks, with a key that may do all for its tenant."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self.metadata = metadata
        self.tasks: Any = TaskServiceStub(channel)
        self.leases: Any = LeaseServiceStub(channel)
        self.blobs: Any = BlobServiceStub(channel)
        self.auth: Any = AuthServiceStub(channel)
        self.uploads: Any = UploadServiceStub(channel)
        self.open: list[Any] = []

    def first_token_s(self, prompt: str) -> float:
        """How long the first token of a prompt takes."""
        sampling = SamplingParams(max_tokens=1, temperature=0)
        request = ts.RunTaskRequest(spec=TaskSpec(model="fake", prompt=prompt, sampling=sampling))
        began = time.perf_counter()
        call = self.tasks.RunTask(request, metadata=self.metadata)
        for response in call:
            if response.event.HasField("output"):
                took = time.perf_counter() - began
                for _ in call:
                    pass
                return took
        raise RuntimeError("no output")


def calls(asker: Tenant, owner: Tenant) -> Iterator[Call]:
    """Every call that takes an id, and what the owner has of its kind."""
    mine = {"metadata": asker.metadata}
    tasks = [_task(owner) for _ in range(OWNED)]
    for name, kind in (("GetTask", ts.GetTaskRequest), ("CancelTask", ts.CancelTaskRequest)):
        yield Call(name, tasks, lambda i, n=name, k=kind: getattr(asker.tasks, n)(k(task_id=i), **mine))
    for name, kind in (("SuspendTask", ts.SuspendTaskRequest), ("ResumeTask", ts.ResumeTaskRequest)):
        yield Call(name, tasks, lambda i, n=name, k=kind: getattr(asker.tasks, n)(k(task_id=i), **mine))
    yield Call("WatchTask", tasks, lambda i: next(asker.tasks.WatchTask(ts.WatchTaskRequest(task_id=i), **mine)))
    yield Call("RunTasks watch", tasks, lambda i: _watched(asker, i))
    leases = [_lease(owner) for _ in range(OWNED)]
    for name, kind in (("GetLease", ls.GetLeaseRequest), ("ReleaseLease", ls.ReleaseLeaseRequest)):
        yield Call(name, leases, lambda i, n=name, k=kind: getattr(asker.leases, n)(k(lease_id=i), **mine))
    yield Call("WatchLease", leases, lambda i: next(asker.leases.WatchLease(ls.WatchLeaseRequest(lease_id=i), **mine)))
    yield Call("KeepAliveLeases", leases, lambda i: _renewal(asker, i))
    yield Call(
        "inferd-lease",
        leases,
        lambda i: asker.tasks.ListTasks(ts.ListTasksRequest(), metadata=(*asker.metadata, ("inferd-lease", i))),
    )
    blobs = [_blob(owner) for _ in range(OWNED)]
    for name, kind in (("GetBlob", bs.GetBlobRequest), ("DeleteBlob", bs.DeleteBlobRequest)):
        yield Call(name, blobs, lambda i, n=name, k=kind: getattr(asker.blobs, n)(k(digest=i), **mine))
    yield Call("ReadBlob", blobs, lambda i: next(asker.blobs.ReadBlob(bs.ReadBlobRequest(digest=i), **mine)))
    yield Call("RunTask blob", blobs, lambda i: _run(asker, {"blob": BlobElements(digest=i)}))
    uploads = [_upload(owner) for _ in range(OWNED)]
    yield Call("RunTask upload", uploads, lambda i: _run(asker, {"uploaded": UploadedElements(upload_id=i)}))
    keys = [_key(owner) for _ in range(OWNED)]
    for name, kind in (("RotateKey", asp.RotateKeyRequest), ("RevokeKey", asp.RevokeKeyRequest)):
        yield Call(name, keys, lambda i, n=name, k=kind: getattr(asker.auth, n)(k(key_id=i), **mine))


def _task(owner: Tenant) -> str:
    request = ts.CreateTaskRequest(spec=TaskSpec(model="fake", prompt="la", sampling=SamplingParams(max_tokens=1)))
    return str(owner.tasks.CreateTask(request, metadata=owner.metadata).task.task_id)


def _lease(owner: Tenant) -> str:
    claims = [Claim(memory=MemoryClaim(device_id="fake:0", bytes=1))]
    request = ls.CreateLeaseRequest(spec=LeaseSpec(claims=claims, ttl={"seconds": 3600}))
    return str(owner.leases.CreateLease(request, metadata=owner.metadata).lease.lease_id)


def _blob(owner: Tenant) -> str:
    data = secrets.token_bytes(64)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    start = bs.PutBlobRequest(start=bs.PutBlobStart(digest=digest, size_bytes=len(data)))
    for _ in owner.blobs.PutBlob(iter([start, bs.PutBlobRequest(chunk=data)]), metadata=owner.metadata):
        pass
    return digest


def _key(owner: Tenant) -> str:
    key = Key(principal="none", roles=["viewer"], tenants=["owner"])
    return str(owner.auth.CreateKey(asp.CreateKeyRequest(key=key), metadata=owner.metadata).key.key_id)


def _renewal(asker: Tenant, lease_id: str) -> Any:
    request = ls.KeepAliveLeasesRequest(lease_ids=[lease_id])
    return next(asker.leases.KeepAliveLeases(iter([request]), metadata=asker.metadata))


def _watched(asker: Tenant, task_id: str) -> Any:
    watch = ts.WatchOrder(request=ts.WatchTaskRequest(task_id=task_id))
    orders = ts.RunTasksRequest(orders=[ts.TaskOrder(tag=1, watch=watch)])
    return next(asker.tasks.RunTasks(iter([orders]), metadata=asker.metadata))


def _upload(owner: Tenant) -> str:
    """An upload that goes on as long as this process."""
    chunks: queue.SimpleQueue[us.UploadRequest] = queue.SimpleQueue()
    chunks.put(us.UploadRequest(start=us.UploadStart(size_bytes=64)))
    call = owner.uploads.Upload(iter(chunks.get, None), metadata=owner.metadata)
    owner.open.append(call)
    return str(next(call).accepted.upload_id)


def _run(asker: Tenant, elements: dict[str, Any]) -> Any:
    tensor = Tensor(name="x", element_type=ElementType.ELEMENT_TYPE_FLOAT, shape=[16], **elements)
    spec = TaskSpec(model="fake", infer=InferInput(inputs=[tensor]))
    return next(asker.tasks.RunTask(ts.RunTaskRequest(spec=spec), metadata=asker.metadata))


def unlike(known: str) -> str:
    """An id of the same form that nobody has."""
    head, colon, rest = known.rpartition(":")
    letters = "0123456789abcdef" if set(rest) <= set("0123456789abcdef-") else string.ascii_lowercase + "234567"
    made = "".join(each if each in "-_" else secrets.choice(letters) for each in rest)
    return f"{head}{colon}{made}"


def asked(call: Call, thing_id: str) -> tuple[float, bytes]:
    """How long an answer took, and its bytes, with the id taken out."""
    began = time.perf_counter()
    try:
        answer = call.ask(thing_id)
    except grpc.RpcError as error:
        took = time.perf_counter() - began
        said = (str(error.code()), error.details(), *((k, v) for k, v in error.trailing_metadata()))
        return took, repr(said).replace(thing_id, "ID").encode()
    took = time.perf_counter() - began
    return took, answer.SerializeToString(deterministic=True).replace(thing_id.encode(), b"ID")


def probe(call: Call, pairs: int) -> Part:
    """Ask in pairs."""
    apart: list[float] = []
    differ = 0
    for number in range(pairs + WORKED):
        theirs = random.choice(call.ids)
        both = [(True, theirs), (False, unlike(theirs))]
        random.shuffle(both)
        got = {there: asked(call, thing_id) for there, thing_id in both}
        differ += got[True][1] != got[False][1]
        if number >= WORKED:
            apart.append((got[True][0] - got[False][0]) * 1e6)
    return {"case": call.name, "pairs": pairs, "differ": differ, "apart_us": [round(each, 1) for each in apart]}


def prompts_case(asker: Tenant, owner: Tenant, tokens: int) -> str:
    """What is measured."""
    return f"{tokens} tokens {'of one tenant' if asker is owner else 'between tenants'}"


def timed_prompts(asker: Tenant, owner: Tenant, tokens: int, pairs: int) -> Part:
    """The time to the first token of prompts that a tenant has computed and that nobody has, in microseconds."""
    seen: list[float] = []
    fresh: list[float] = []
    for number in range(pairs + WORKED):
        known, unknown = (("".join(random.choices(string.ascii_lowercase, k=tokens))) for _ in range(2))
        owner.first_token_s(known)
        order = [(known, seen), (unknown, fresh)]
        random.shuffle(order)
        for prompt, times in order:
            took = asker.first_token_s(prompt)
            if number >= WORKED:
                times.append(round(took * 1e6, 1))
    case = prompts_case(asker, owner, tokens)
    return {"case": case, "pairs": pairs, "hidden": asker is not owner, "seen_us": seen, "fresh_us": fresh}


@contextmanager
def tenants() -> Iterator[tuple[Tenant, Tenant]]:
    """One who asks and one who has, with a kernel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unix = f"unix:{folder / 's'}"
        settings = {"INFERD_AUTH__REQUIRED": "true", "INFERD_STORE__URL": f"sqlite:{folder / 'kernel.sqlite'}"}
        settings["INFERD_LIMITS__UPLOAD_IDLE_S"] = "100000"
        with (
            kernel_process(folder, environment=settings, besides=(unix,)) as kernel,
            grpc.insecure_channel(unix) as local,
            grpc.insecure_channel(kernel.address) as channel,
            Client(unix) as client,
        ):
            client.create_model("fake", source=str(write_fake_model(folder, **MODEL)))
            made: Any = AuthServiceStub(local)

            def tenant(name: str) -> Tenant:
                key = Key(principal=name, roles=["admin"], tenants=[name])
                credential = made.CreateKey(asp.CreateKeyRequest(key=key)).credential
                return Tenant(channel, (("authorization", f"Bearer {credential}"),))

            yield tenant("asker"), tenant("owner")


def cases(asker: Tenant, owner: Tenant, ids: int, prompts: int) -> Iterator[tuple[str, int, Callable[[int], Part]]]:
    """Each case by its name, the pairs that it is to have, and what makes a part of so many."""
    found = list(calls(asker, owner)) if ids else []
    for call in found:
        yield call.name, -(-ids // len(found) // 2), partial(probe, call)
    for tokens in TOKENS if prompts else ():
        for who in (asker, owner):
            yield prompts_case(who, owner, tokens), prompts, partial(timed_prompts, who, owner, tokens)


def measure(report: Report, ids: int, prompts: int, seconds: float) -> dict[str, int]:
    """Add parts of each case in turns until all are whole, or time is over; the pairs that each is to have."""
    until = time.monotonic() + seconds
    with tenants() as (asker, owner):
        found = list(cases(asker, owner, ids, prompts))
        wanted = {case: pairs for case, pairs, _ in found}
        while left := [each for each in found if report.pairs(each[0]) < each[1] and time.monotonic() < until]:
            for case, pairs, make in left:
                if time.monotonic() < until:
                    report.add(make(min(PART, pairs - report.pairs(case))))
        for call in owner.open:
            call.cancel()
    return wanted


def main() -> int:
    """Print each figure; 1 where one is wrong, 2 where pairs are left."""
    parser = argparse.ArgumentParser(description="Can a tenant tell what another one has?")
    parser.add_argument("--ids", type=int, default=100_000, help="probes of ids, over all calls; 0 for none")
    parser.add_argument("--prompts", type=int, default=1000, help="pairs of prompts of each length; 0 for none")
    parser.add_argument("--judge", action="store_true", help="fail by times, too")
    parser.add_argument("--report", type=Path, help="file of parts: what it has is not measured again")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long; needs --report to go on")
    options = parser.parse_args()
    report = Report(options.report)
    wanted = measure(report, options.ids, options.prompts, options.seconds)
    wrong = left = 0
    for case, pairs in wanted.items():
        left += pairs - report.pairs(case)
        if report.pairs(case):
            figure = report.figure(case)
            same = not figure.get("differ")
            print(json.dumps({**figure, "same_bytes": same}), flush=True)
            wrong += not same or (options.judge and not figure["within"])
    if left:
        print(json.dumps({"pairs_left": left}), flush=True)
    return 1 if wrong else UNFINISHED if left else 0


if __name__ == "__main__":
    sys.exit(main())
