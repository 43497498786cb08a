"""The program that tries the Python client where nothing of the kernel is installed; see `client_languages`."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

from inferd_api.v1.lease_pb2 import LeaseState
from inferd_api.v1.task_pb2 import TaskState
from inferd_client import AsyncClient, Client, claims
from inferd_client.errors import (
    InferdError,
    InvalidFieldError,
    KernelUnreachableError,
    LeaseLostError,
    ModelNotFoundError,
    TaskExpiredError,
    TlsFailedError,
    UnauthenticatedError,
)

TTL_S = 6.0  # a keep-alive has a third of it, on a machine that is busy
WAIT_S = 120.0  # a kernel is started again meanwhile


def told(name: str) -> str:
    """What the ground says."""
    return os.environ[f"INFERD_TEST_{name}"]


def ask(order: str) -> None:
    """Have the ground do something: "cut" connections through the proxy, "kill" the kernel."""
    host, _, port = told("CONTROL").rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as asked:
        asked.sendall(f"{order}\n".encode())
        assert asked.recv(16) == b"done\n"


def refusal(kind: type[InferdError], call: Callable[[], object]) -> InferdError:
    """The error of this class that a call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def chat(text: str) -> list[dict[str, str]]:
    """What a user says."""
    return [{"role": "user", "content": text}]


def alone() -> None:
    """Nothing of the kernel can be imported."""
    assert find_spec("inferd") is None


def found() -> None:
    """The kernel of this user is found, and streams exactly what there is."""
    with Client() as client:
        assert "".join(client.stream("fake", chat("Grüße, 世界 🐢"))) == "Grüße, 世界 🐢"
        assert client.generate("fake", "la", max_tokens=512).text == "la" * 256


def login() -> None:
    """A key logs in over TCP, and nothing else does."""
    with Client(told("TCP"), credential_file=told("KEY")) as client:
        assert client.generate("fake", chat("key")).text == "key"
    with Client(told("TCP")) as bare:
        refusal(UnauthenticatedError, lambda: bare.generate("fake", chat("no")))


def tls() -> None:
    """TLS is spoken with who has a certificate of the right authority, and with nobody else."""
    with Client(told("TLS"), credential_file=told("KEY"), ca_file=told("CA")) as client:
        assert client.generate("fake", chat("tls")).text == "tls"
    with Client(told("TLS"), credential_file=told("KEY")) as doubting:
        refusal(TlsFailedError, lambda: doubting.generate("fake", chat("no")))


def cancel() -> None:
    """Leaving the events of a task cancels it, and so does cancelling the asyncio task that reads them."""
    with Client() as client:
        for task_id in (_left(client), asyncio.run(_cancelled())):
            states = [event.finished.state for event in client.watch(task_id)]
            assert states[-1] == TaskState.TASK_STATE_CANCELLED


def _left(client: Client) -> str:
    events = client.run("slow", "la", max_tokens=400)
    task_id = next(event.task_id for event in events if event.HasField("output"))
    events.close()
    return task_id


async def _cancelled() -> str:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        async for event in client.run("slow", "la", max_tokens=400):
            if event.HasField("output"):
                seen.put_nowait(event.task_id)

    async with AsyncClient() as client:
        reading = asyncio.create_task(read())
        task_id = await seen.get()
        reading.cancel()
        await asyncio.wait([reading])
    return task_id


def deadline() -> None:
    """A deadline ends the task."""
    with Client() as client:
        refusal(TaskExpiredError, lambda: client.generate("slow", "la", max_tokens=400, timeout_s=0.2))


def cut() -> None:
    """A durable task is watched on behind its last event when its connection breaks."""
    _reattach("cut")


def kill() -> None:
    """A durable task is watched on behind its last event when its kernel is killed."""
    _reattach("kill")


def _reattach(trouble: str) -> None:
    with Client() as client, Client(told("PROXY"), credential_file=told("KEY")) as proxied:
        task = proxied.create_task("slow", "la", max_tokens=400, request_id=f"python {trouble}")
        same = proxied.create_task("slow", "la", max_tokens=400, request_id=f"python {trouble}")
        assert task.task_id == same.task_id
        events, first = [], 0
        for event in proxied.watch(task.task_id):
            events.append(event)
            if not first and event.output.text:
                first = event.sequence
                ask(trouble)
        text = "".join(event.output.text for event in events)
        assert text == "la" * 200
        sequences = [event.sequence for event in events]
        assert sequences == sorted(set(sequences))
        rest = "".join(event.output.text for event in client.watch(task.task_id, first))
        assert rest
        assert text.endswith(rest)
        assert len(rest) < len(text)


def lease() -> None:
    """A lease holds beyond its TTL, for calls under it, and is given back."""
    with Client() as client:
        wanted = (claims.memory(1 << 20), claims.model("fake", sequences=1, kv_tokens=512))
        with client.lease(*wanted, ttl_s=TTL_S, wait=True) as held:
            until = time.monotonic() + 2 * TTL_S
            while time.monotonic() < until:
                assert client.generate("fake", chat("held"), lease=held, max_tokens=16).text == "held"
            held.check()
            assert held.fencing_token
        assert client.get_lease(held.lease_id).state == LeaseState.LEASE_STATE_RELEASED


def lost_lease() -> None:
    """A lease that somebody else has ended is lost."""

    def hold() -> None:
        with client.lease(claims.memory(1 << 20), ttl_s=TTL_S) as held:
            client.release_lease(held.lease_id)
            while True:
                held.check()

    with Client() as client:
        refusal(LeaseLostError, hold)


def errors() -> None:
    """Errors have the kernel's reason."""
    with Client() as client:
        error = refusal(ModelNotFoundError, lambda: client.generate("fak", chat("hello")))
        assert error.metadata["suggestion"] == "fake"
        assert "did you mean" in error.message
        invalid = refusal(InvalidFieldError, lambda: client.generate("fake", "la", request_id="x" * 129))
        assert invalid.field == "request_id"
    with Client("unix:/nonexistent/inferd.sock") as nobody:
        refusal(KernelUnreachableError, lambda: nobody.generate("fake", chat("no")))


TESTS = (alone, found, login, tls, cancel, deadline, cut, kill, lease, lost_lease, errors)


def main() -> int:
    """Try all of it; how much of it failed."""
    failed = 0
    for test in TESTS:
        try:
            test()
        except Exception as error:  # noqa: BLE001 - told, and the next one is tried
            failed += 1
            print(f"failed {test.__name__}: {type(error).__name__}: {error}")  # noqa: T201 - its output
        else:
            print(f"passed {test.__name__}")  # noqa: T201 - its output
    return failed


if __name__ == "__main__":
    sys.exit(main())
