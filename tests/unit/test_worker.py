import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferd import __version__
from inferd.testing.kernel import write_fake_model
from inferd.worker.frames import PROCESS_BYTES
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.worker.v1 import load_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

DEADLINE_S = 60.0
FAKE = "inferd.testing.fake:FakeBackend"
LIMITS = load_pb2.EngineLimits(step_tokens=512, template_timeout_s=10, max_output_tokens=10**6)
GREEDY = SamplingParams(max_tokens=4, temperature=0)
ENDLESS = SamplingParams(max_tokens=10**6, temperature=0)


def submission(handle: int, prompt: str, sampling: SamplingParams, **more: Any) -> task_pb2.Submit:
    work = task_pb2.Work(input=task_pb2.Input(prompt=prompt), generate=task_pb2.Generate(sampling=sampling))
    return task_pb2.Submit(handle=handle, work=work, **more)


class Kernel:
    """The kernel's end of a worker."""

    def __init__(self, *, parent: int | None = None, **environment: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(DEADLINE_S)
        command = [sys.executable, "-m", "inferd.worker", "--fd", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--parent", str(parent or os.getpid())],
                env={**os.environ, **environment},
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE,
                text=True,
            )

    def send(self, **kind: Any) -> None:
        data = wire.KernelFrame(**kind).SerializeToString()
        self.sock.sendall(struct.pack("<I", len(data)) + data)

    def receive(self) -> wire.WorkerFrame | None:
        """The next frame; None at the end."""
        header = self._read(4)
        return wire.WorkerFrame.FromString(self._read(struct.unpack("<I", header)[0])) if header else None

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                return b""
            data += part
        return data

    def expect(self, kind: str) -> Any:
        """The next frame of this kind; what comes before it is dropped."""
        while (frame := self.receive()) is not None:
            if frame.WhichOneof("kind") == kind:
                return getattr(frame, kind)
        raise AssertionError(f"the worker ended without {kind}: {self.errors()}")

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def load(self, path: Path, *, loader: str = FAKE, **settings: load_pb2.SettingValue) -> load_pb2.Loaded:
        self.expect("hello")
        self.send(load=load_pb2.Load(loader=loader, path=str(path), device="fake:0", settings=settings, limits=LIMITS))
        self.expect("sealed")  # before anything that the model could have said
        self.expect("needs")
        self.send(proceed=load_pb2.Proceed())
        loaded: load_pb2.Loaded = self.expect("loaded")
        return loaded

    def outcome(self, handle: int) -> tuple[str, step_pb2.Ended]:
        """The text of a task, and how it ended."""
        text = ""
        while True:
            step = self.expect("step")
            text += "".join(part for h, part in zip(step.handles, step.texts, strict=True) if h == handle)
            for ended in step.ended:
                if ended.handle == handle:
                    return text, ended

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)


@contextmanager
def starting(**options: Any) -> Iterator[Kernel]:
    kernel = Kernel(**options)
    with kernel.sock, kernel.process:
        try:
            yield kernel
        finally:
            kernel.process.kill()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with starting() as one:
        yield one


def test_life(kernel: Kernel, tmp_path: Path) -> None:
    """A worker says hello, loads, runs tasks, answers pings, and ends in order when it is told to."""
    hello = kernel.expect("hello")
    assert (hello.version, hello.pid) == (__version__, kernel.process.pid)
    path = write_fake_model(tmp_path, max_sequences=7, weights_bytes=5, kv_bytes=6, workspace_bytes=7)
    settings = {"context_tokens": load_pb2.SettingValue(int_value=99)}
    kernel.send(load=load_pb2.Load(loader=FAKE, path=str(path), device="fake:0", settings=settings, limits=LIMITS))
    assert kernel.expect("needs") == load_pb2.Needs(weights_bytes=5, kv_bytes=6, workspace_bytes=7)
    kernel.send(proceed=load_pb2.Proceed())
    assert kernel.expect("load_progress").fraction >= 0
    loaded = kernel.expect("loaded")
    assert (loaded.max_tasks, loaded.context_tokens) == (7, 99)
    assert "fake" in loaded.description
    assert loaded.memory_bytes > 1 << 20
    kernel.send(submit=submission(3, "ab", GREEDY))
    text, ended = kernel.outcome(3)
    assert text == "abab"
    assert (ended.finish_reason, ended.prompt_tokens, ended.output_tokens) == (3, 2, 4)
    kernel.send(ping=wire.Ping(nonce=8))
    pong = kernel.expect("pong")
    assert (pong.nonce, pong.steps) == (8, 4)
    assert pong.memory_bytes > 1 << 20
    kernel.send(stop=wire.Stop())
    assert kernel.receive() is None
    assert kernel.wait() == 0
    assert kernel.errors() == ""


def wait_for_room(kernel: Kernel, path: Path) -> None:
    """Have a worker measure; it then waits."""
    kernel.expect("hello")
    kernel.send(load=load_pb2.Load(loader=FAKE, path=str(path), device="fake:0", limits=LIMITS))
    kernel.expect("needs")


def test_waits_for_room(kernel: Kernel, tmp_path: Path) -> None:
    """Between `Needs` and `Proceed` a worker answers pings and loads nothing; a stop ends it at once."""
    wait_for_room(kernel, write_fake_model(tmp_path, load_s=10**6))
    for nonce in range(3):
        kernel.send(ping=wire.Ping(nonce=nonce))
        frame = kernel.receive()
        assert frame is not None
        assert frame.pong.nonce == nonce
    kernel.send(stop=wire.Stop())
    assert kernel.receive() is None
    assert kernel.wait() == 0


def test_end_of_the_link_while_it_waits(kernel: Kernel, tmp_path: Path) -> None:
    """A worker that waits for room is gone with its kernel."""
    wait_for_room(kernel, write_fake_model(tmp_path))
    kernel.sock.close()
    assert kernel.wait() == 0


def test_on_the_host_the_process_itself_counts(tmp_path: Path) -> None:
    """What a worker needs of the host's memory includes what it takes without a model; no need is too large to tell."""
    (tmp_path / "large.py").write_text(
        "from inferd.plugin import MemoryNeed\n"
        "class Backend:\n"
        "    def measure(self, _): return MemoryNeed(weights_bytes=7, kv_bytes=10**30, workspace_bytes=9)\n"
    )
    with starting(PYTHONPATH=str(tmp_path)) as kernel:
        kernel.expect("hello")
        kernel.send(load=load_pb2.Load(loader="large:Backend", path="/", device="cpu:0", limits=LIMITS))
        needs = kernel.expect("needs")
        kernel.send(ping=wire.Ping(nonce=1))
        assert kernel.expect("pong").memory_bytes <= PROCESS_BYTES
    assert (needs.weights_bytes, needs.kv_bytes) == (7, 1 << 60)
    assert needs.workspace_bytes == 9 + PROCESS_BYTES


def test_refused_task(kernel: Kernel, tmp_path: Path) -> None:
    """A task that does not fit ends with its reason and both numbers."""
    kernel.load(write_fake_model(tmp_path, context_tokens=10))
    kernel.send(submit=submission(1, "x" * 11, GREEDY))
    _, ended = kernel.outcome(1)
    assert ended.failure.reason == "PROMPT_TOO_LONG"
    assert ended.failure.metadata == {"prompt_tokens": "11", "limit_tokens": "10"}


def test_cancelled_task(kernel: Kernel, tmp_path: Path) -> None:
    """A cancelled task makes room for the next one, and is not heard of any more."""
    kernel.load(write_fake_model(tmp_path, max_sequences=1, context_tokens=10**6, blocks=10**5))
    kernel.send(submit=submission(1, "ab", ENDLESS))
    kernel.expect("step")
    kernel.send(cancel=task_pb2.Cancel(handle=1))
    kernel.send(submit=submission(2, "cd", GREEDY))
    assert kernel.outcome(2)[0] == "cdcd"


def test_task_that_goes_on(kernel: Kernel, tmp_path: Path) -> None:
    """With what it has told before a task goes on behind that, alone in its batch if it is to, which is told first."""
    kernel.load(write_fake_model(tmp_path, context_tokens=32))
    sampling = SamplingParams(max_tokens=6, temperature=0)
    told = task_pb2.SampleSoFar(token_ids=b"abab")
    continuation = task_pb2.Continuation(samples=[told], cached_tokens=0)
    submit = submission(1, "ab", sampling, continuation=continuation, alone=True)
    kernel.send(submit=submit)
    assert kernel.expect("step").alone == 1
    text, ended = kernel.outcome(1)
    assert text == "ab"
    assert ended.output_tokens == 6


def test_priority_and_holds(kernel: Kernel, tmp_path: Path) -> None:
    """Of two places a lease holds one, the other is that of a task of class HIGH; tasks by older grants are refused."""
    kernel.load(write_fake_model(tmp_path, max_sequences=2, context_tokens=2000))
    long = SamplingParams(max_tokens=1900, temperature=0)
    kernel.send(hold=task_pb2.Hold(lease_id="l", fencing_token=3, sequences=1, kv_tokens=100))
    for handle, priority in ((1, 1), (2, 3)):
        kernel.send(submit=submission(handle, "ab", long, priority=priority))
    for handle, token in ((3, 2), (4, 3)):
        submit = submission(handle, "cd", GREEDY, lease_id="l", fencing_token=token)
        kernel.send(submit=submit)
    assert kernel.outcome(3)[1].failure.reason == "LEASE_ENDED"
    assert kernel.outcome(4)[1].output_tokens == 4
    assert list(kernel.expect("step").handles) == [2]


def test_shares(kernel: Kernel, tmp_path: Path) -> None:
    """Of tasks that wait for the only place, that of a tenant with nothing else goes before one with a task there."""
    kernel.load(write_fake_model(tmp_path, max_sequences=1, context_tokens=2000))
    long = SamplingParams(max_tokens=1900, temperature=0)
    for handle, sampling, tenant in ((1, long, "a"), (2, GREEDY, "a"), (3, GREEDY, "b")):
        kernel.send(submit=submission(handle, "ab", sampling, tenant=tenant, expected_tokens=9))
    ended: list[int] = []
    while len(ended) < 3:
        ended += [each.handle for each in kernel.expect("step").ended]
    assert ended == [1, 3, 2]


@pytest.mark.parametrize(
    ("loader", "behaviour", "cause"),
    [
        (FAKE, {"load_error": "tensor 'x' has 3 bytes of 4"}, "tensor 'x' has 3 bytes of 4"),
        (FAKE, {"measure_error": "tensor 'y' is missing"}, "tensor 'y' is missing"),
        (FAKE, {"blocks": 0}, "ValueError: the session's limit blocks is 0; it must be at least 1"),
        ("inferd.nothing:Backend", {}, "ModuleNotFoundError: No module named 'inferd.nothing'"),
        ("inferd.testing.fake:Nothing", {}, "testing/fake.py has no 'Nothing'"),
    ],
)
def test_load_that_fails(kernel: Kernel, tmp_path: Path, loader: str, behaviour: dict[str, Any], cause: str) -> None:
    """A load that fails is told with its cause, the traceback is in the log, and the worker ends without a crash."""
    path = write_fake_model(tmp_path, **behaviour)
    kernel.expect("hello")
    kernel.send(load=load_pb2.Load(loader=loader, path=str(path), device="fake:0", limits=LIMITS))
    kernel.send(proceed=load_pb2.Proceed())
    failure = kernel.expect("load_failed").failure
    assert failure.reason == "MODEL_LOAD_FAILED"
    assert cause in failure.metadata["cause"]
    assert failure.metadata["cause"] in failure.message
    assert kernel.receive() is None
    assert kernel.wait() == 0
    assert "Traceback" in kernel.errors()


def test_ping_in_the_middle_of_a_step(kernel: Kernel, tmp_path: Path) -> None:
    """A ping is answered while a step is under way that never ends."""
    kernel.load(write_fake_model(tmp_path, step_s=10**6))
    kernel.send(submit=submission(1, "ab", GREEDY))
    kernel.send(ping=wire.Ping(nonce=1))
    assert kernel.expect("pong").steps == 0


@pytest.mark.parametrize("behaviour", [{"load_s": 10**6}, {"step_s": 10**6}], ids=["load", "step"])
def test_end_of_the_link_is_the_end(kernel: Kernel, tmp_path: Path, behaviour: dict[str, Any]) -> None:
    """When the kernel closes its end, the worker is gone, in the middle of a load or of a step too."""
    path = write_fake_model(tmp_path, **behaviour)
    if "load_s" in behaviour:
        kernel.expect("hello")
        kernel.send(load=load_pb2.Load(loader=FAKE, path=str(path), device="fake:0", limits=LIMITS))
        kernel.send(proceed=load_pb2.Proceed())
        kernel.expect("load_progress")
    else:
        kernel.load(path)
        kernel.send(submit=submission(1, "ab", GREEDY))
        kernel.send(ping=wire.Ping(nonce=1))
        kernel.expect("pong")
    kernel.sock.close()
    assert kernel.wait() == 0


def test_stop_in_the_middle_of_a_load(kernel: Kernel, tmp_path: Path) -> None:
    """A worker that is told to stop while it loads does not finish loading first."""
    kernel.expect("hello")
    path = write_fake_model(tmp_path, load_s=10**6)
    kernel.send(load=load_pb2.Load(loader=FAKE, path=str(path), device="fake:0", limits=LIMITS))
    kernel.send(proceed=load_pb2.Proceed())
    kernel.expect("load_progress")
    kernel.send(stop=wire.Stop())
    assert kernel.wait() == 0


def test_death_in_the_middle_of_a_step(kernel: Kernel, tmp_path: Path) -> None:
    """A backend that kills the process ends the link at once."""
    kernel.load(write_fake_model(tmp_path, die_on_token=ord("!")))
    kernel.send(submit=submission(1, "ab!", GREEDY))
    assert kernel.receive() is None
    assert kernel.wait() == -signal.SIGKILL


def test_backend_that_stops_the_process(kernel: Kernel, tmp_path: Path) -> None:
    """A backend that never comes back leaves pings unanswered, and the process can be killed."""
    kernel.load(write_fake_model(tmp_path, hang_on_token=ord("!")))
    kernel.send(submit=submission(1, "ab!", GREEDY))
    _, status = os.waitpid(kernel.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_signals(kernel: Kernel, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """SIGTERM ends a worker; SIGINT, which a terminal sends to the kernel too, is the kernel's matter."""
    kernel.load(write_fake_model(tmp_path))
    kernel.process.send_signal(number)
    if number is signal.SIGINT:
        kernel.send(ping=wire.Ping(nonce=1))
        assert kernel.expect("pong").nonce == 1
        kernel.send(stop=wire.Stop())
    assert kernel.wait() == code


def test_parent_that_has_ended() -> None:
    """A worker whose kernel ended before it could watch it does not start."""
    with starting(parent=1) as kernel:
        assert kernel.receive() is None
        assert kernel.wait() == 1


def test_death_of_the_parent() -> None:
    """A worker is killed with its kernel, even if another process still holds the kernel's end of the link."""
    ours, theirs = socket.socketpair()
    script = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-m', 'inferd.worker', '--fd', sys.argv[1], '--parent', str(os.getpid())]\n"
        "worker = subprocess.Popen(command, pass_fds=[int(sys.argv[1])])\n"
        "print(worker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with ours, theirs:
        parent = subprocess.Popen(
            [sys.executable, "-c", script, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with parent:
            assert parent.stdout is not None
            worker = psutil.Process(int(parent.stdout.readline()))
            ours.settimeout(DEADLINE_S)
            assert ours.recv(1)  # hello: it watches its parent now
            parent.kill()
        worker.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (struct.pack("<I", (16 << 20) + 1), "a frame of 16777217 bytes exceeds limits.frame_bytes, which is 16777216"),
        (b"\x02\x00\x00\x00\xff\xff", "DecodeError"),
    ],
    ids=["large", "garbage"],
)
def test_frame_that_is_none(kernel: Kernel, frame: bytes, error: str) -> None:
    """A frame that cannot be read ends the worker with the cause in its log: it would never answer otherwise."""
    kernel.expect("hello")
    kernel.sock.sendall(frame)
    assert kernel.wait() == 1
    assert error in kernel.errors()


@pytest.mark.parametrize("given", [{}, {"OPENBLAS_NUM_THREADS": "77"}])
def test_threads_of_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    """The libraries are told how many cores they may use before they are loaded, unless the user has told them."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    (tmp_path / "telling.py").write_text(
        "import os\nclass Backend:\n    def measure(self, _): raise ValueError(os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    with starting(PYTHONPATH=str(tmp_path), **given) as kernel:
        kernel.expect("hello")
        kernel.send(load=load_pb2.Load(loader="telling:Backend", path="/", limits=LIMITS))
        cause = kernel.expect("load_failed").failure.metadata["cause"]
    threads = given.get("OPENBLAS_NUM_THREADS", len(os.sched_getaffinity(0)))
    assert cause == f"ValueError: {threads} ({tmp_path}/telling.py:3)"


def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    """A backend that reports its progress without end does not flood the link."""
    (tmp_path / "chatty.py").write_text(
        "from inferd.plugin import MemoryNeed\n"
        "class Backend:\n"
        "    def measure(self, _): return MemoryNeed(weights_bytes=1)\n"
        "    def load(self, _, progress):\n"
        "        for n in range(20_000): progress(n / 20_000)\n"
        "        raise ValueError('done')\n"
    )
    with starting(PYTHONPATH=str(tmp_path)) as kernel:
        kernel.expect("hello")
        kernel.send(load=load_pb2.Load(loader="chatty:Backend", path="/", limits=LIMITS))
        kernel.send(proceed=load_pb2.Proceed())
        kernel.expect("needs")
        reports = 0
        while (frame := kernel.receive()) is not None and frame.HasField("load_progress"):
            reports += 1
    assert 1 <= reports < 2_000
