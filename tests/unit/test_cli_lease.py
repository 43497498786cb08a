"""`inferd lease`, `top`, `plan`, `suspend` and `resume` against a kernel that really gives and takes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli import main, program
from inferd.cli.amounts import read_size, size
from inferd.cli.output import Format, Output
from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.v1.lease_pb2 import LEASE_STATE_ACTIVE, LEASE_STATE_PENDING, LEASE_STATE_RELEASED
from inferd_client import Client, claims

pytestmark = pytest.mark.e2e
WAIT_S = 60
GIB = 1 << 30
SAY_AND_WAIT = "import time; print('here', flush=True); time.sleep(60)"

Commands = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel with 10 GiB, a model, and leases as short as one likes."""
    folder = tmp_path_factory.mktemp("kernel")
    environment = {
        "INFERD_BACKENDS": "cpu",
        "INFERD_DEVICES__MEMORY_BYTES": json.dumps({"cpu:0": 10 * GIB, "fake:0": GIB}),
        "INFERD_LEASES__MIN_TTL_S": "0.05",
    }
    with kernel_process(folder, environment=environment) as kernel, Client(kernel.address) as client:
        client.create_model("fake", str(write_fake_model(folder, step_s=0.002)))
        client.create_model("huge", str(write_fake_model(folder, "huge", weights_bytes=100 * GIB)))
        client.create_model("half", str(write_fake_model(folder, "half", weights_bytes=GIB // 2)))
        yield kernel.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client; all leases are released at the end."""
    with Client(address) as client:
        yield client
        for lease in client.list_leases(states=[LEASE_STATE_ACTIVE, LEASE_STATE_PENDING]):
            client.release_lease(lease.lease_id)


@pytest.fixture
def inferd(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands in this process against the kernel."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main.app, list(arguments), env={"INFERD_ADDRESS": client.address})

    return call


@pytest.fixture
def start(client: Client, tmp_path: Path) -> Start:
    """Starts `inferd` against the kernel."""

    def start(*arguments: str, program: Any = None, **more: Any) -> "subprocess.Popen[str]":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            program or [sys.executable, "-m", "inferd", *arguments],
            env={**os.environ, "INFERD_ADDRESS": client.address, "INFERD_CONFIG": str(tmp_path / "none.toml")},
            text=True,
            start_new_session=True,  # no terminal: signals come from this test only
            **(streams | more),
        )

    return start


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def only_lease(client: Client) -> Any:
    (lease,) = client.list_leases(states=[LEASE_STATE_ACTIVE, LEASE_STATE_PENDING])
    return lease


def until_waiting(client: Client) -> str:
    """The id of the lease that waits, once there is one."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if waiting := list(client.list_leases(states=[LEASE_STATE_PENDING])):
            return waiting[0].lease_id
    raise AssertionError("no lease waits")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4096", 4096), ("4GiB", 4 * GIB), ("512MB", 512_000_000), ("1.5 kib", 1536), (" 2 gb ", 2_000_000_000)],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    """Plain bytes, and decimal and binary units in any case, are sizes."""
    assert read_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [("4 GiBs", "did you mean '4GiB'"), ("4 qqq", "units are B"), ("-1", "no size"), ("", "no size"), ("0GB", "less")],
)
def test_what_is_no_size_is_told(text: str, said: str) -> None:
    """A wrong unit is told the nearest one, and what is no size how to write one."""
    with pytest.raises(ValueError, match=said):
        read_size(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "--memory", "4GiBs"],
        ["create", "--sequences", "2"],
        ["create", "--device", "cpu:0"],
        ["create", "--memory", "1", "--ttl", "nan"],
        ["create", "--memory", "1", "--ttl", "0"],
        ["create", "--memory", "1", "--label", "x"],
        ["create", "--memory", "1", "--priority", "urgent"],
        ["run", "--memory", "1"],
    ],
)
def test_misuse_is_exit_code_2(inferd: Commands, arguments: list[str]) -> None:
    """What cannot be meant is an error of use, before any call."""
    assert inferd("lease", *arguments).exit_code == 2


def test_a_lease_is_created_listed_kept_and_released(inferd: Commands, client: Client) -> None:
    """`create` prints the id alone; `list` shows what it holds, `keep --once` how long, `release` its end."""
    done = inferd("lease", "create", "--memory", "2GiB", "--cores", "1", "--priority", "high", "--label", "a=b")
    assert done.exit_code == 0, done.output
    (lease_id,) = done.stdout.split()
    assert "2.1 GB of cpu:0, 1 core of cpu:0 for 30 s" in done.stderr
    assert dict(client.get_lease(lease_id).spec.labels) == {"a": "b"}
    header, row = inferd("lease", "list").stdout.splitlines()
    assert header.split()[:5] == ["LEASE", "STATE", "HOLDS", "CLASS", "LEFT"]
    assert row.startswith(f"{lease_id}  active  2.1 GB of cpu:0, 1 core of cpu:0  high")
    (listed,) = json.loads(inferd("lease", "list", "-o", "json").stdout)["leases"]
    assert (listed["lease_id"], listed["state"], listed["spec"]["ttl"]) == (lease_id, "LEASE_STATE_ACTIVE", "30s")
    assert inferd("lease", "keep", lease_id, "--once", "--ttl", "60").stdout == f"{lease_id} holds for 60 s\n"
    done = inferd("lease", "release", "unknown", lease_id)
    assert done.exit_code == 1
    assert done.stdout == f"{lease_id} is released\n"
    assert "no lease 'unknown'" in done.stderr
    assert lease_id not in inferd("lease", "list").stdout
    assert lease_id in inferd("lease", "list", "--all").stdout
    done = inferd("lease", "keep", lease_id, "-o", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["metadata"]["state"] == "RELEASED"


def test_a_model_is_held(inferd: Commands) -> None:
    """A claim on a part of a model loads it; `--wait` waits for that, and the lease shows what it keeps."""
    done = inferd("lease", "create", "--model", "fake", "--sequences", "2", "--kv-tokens", "64", "--wait", "-o", "json")
    lease = json.loads(done.stdout)
    assert lease["state"] == "LEASE_STATE_ACTIVE"
    assert lease["spec"]["claims"] == [{"model": {"model": "fake", "sequences": 2, "kv_tokens": 64}}]
    answer = inferd("run", "fake", "hello", "--lease", lease["lease_id"], "--priority", "high")
    assert answer.stdout == "hello\n"
    task = json.loads(inferd("tasks", "-o", "json").stdout)["tasks"][0]
    assert (task["lease_id"], task["priority"]) == (lease["lease_id"], "PRIORITY_HIGH")
    assert "fake (2 places, 64 tokens)" in inferd("lease", "list").stdout


def test_no_room_is_told_with_the_figures(inferd: Commands, client: Client) -> None:
    """Without room `create` ends with exit code 1 and the reason; with a longest wait after that."""
    client.create_lease(claims.memory(8 * GIB))
    done = inferd("lease", "create", "--memory", "4GiB", "-o", "json")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["reason"], error["metadata"]["free"]) == (1, "LEASE_UNAVAILABLE", str(2 * GIB))
    done = inferd("lease", "create", "--memory", "4GiB", "--wait-timeout", "0.1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no room in 0.1 s" in done.stderr


def test_create_waits_for_room_and_keeps_its_place_alive(start: Start, client: Client) -> None:
    """A lease that waits longer than its TTL is still there when there is room; `watch` shows its whole life."""
    first = client.create_lease(claims.memory(8 * GIB))
    with start("lease", "create", "--memory", "4GiB", "--wait", "--ttl", "1.5") as process:
        lease_id = until_waiting(client)
        renewed = set()
        with closing(client.watch_lease(lease_id)) as leases:
            for lease in leases:
                renewed.add(lease.expire_time.ToNanoseconds())
                if len(renewed) == 5:
                    break
        with start("lease", "watch", lease_id) as watching:
            assert "pending" in first_line(watching)
            client.release_lease(first.lease_id)
            out, errors = process.communicate(timeout=WAIT_S)
            client.release_lease(lease_id)
            told, _ = watching.communicate(timeout=WAIT_S)
    assert (out, process.returncode) == (f"{lease_id}\n", 0), errors
    assert watching.returncode == 0
    assert [line.split()[2] for line in told.splitlines()][-1] == "released"
    assert any(" active " in line for line in told.splitlines())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_wait_that_is_given_up_leaves_no_lease(start: Start, client: Client, number: int, code: int) -> None:
    """SIGINT and SIGTERM while `lease run` waits end it, the program never starts, and nothing waits any more."""
    client.create_lease(claims.memory(8 * GIB))
    with start("lease", "run", "--memory", "4GiB", "--wait", "--", "echo", "started") as process:
        lease_id = until_waiting(client)
        process.send_signal(number)
        out, errors = process.communicate(timeout=WAIT_S)
    assert (out, errors, process.returncode) == ("", "", code)
    assert client.get_lease(lease_id).state == LEASE_STATE_RELEASED


def test_a_program_runs_under_a_lease(start: Start, client: Client) -> None:
    """The program gets its arguments, stdin and the lease's id; its exit code is the command's; the lease ends."""
    code = "import os, sys; print(sys.argv[1:], sys.stdin.read(), os.environ['INFERD_LEASE']); sys.exit(7)"
    command = ["lease", "run", "--memory", "1GiB", "--", sys.executable, "-c", code, "--memory", "x"]
    with start(*command, stdin=subprocess.PIPE) as process:
        out, errors = process.communicate("typed", timeout=WAIT_S)
    assert (process.returncode, errors) == (7, "")
    arguments, typed, lease_id = out.rsplit(maxsplit=2)
    assert (arguments, typed) == ("['--memory', 'x']", "typed")
    assert client.get_lease(lease_id).state == LEASE_STATE_RELEASED


def test_a_program_that_does_not_exist_claims_nothing(inferd: Commands, client: Client) -> None:
    """A program that cannot be found is exit code 127, as from a shell, and no lease is asked for."""
    before = len(list(client.list_leases()))
    done = inferd("lease", "run", "--memory", "1GiB", "no-such-program")
    assert done.exit_code == 127
    assert "no-such-program" in done.stderr
    assert len(list(client.list_leases())) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(start: Start, client: Client, number: signal.Signals) -> None:
    """SIGINT and SIGTERM are passed on; what the program makes of them is the exit code."""
    code = (
        f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(9));"
        "print('here', flush=True); signal.pause()"
    )
    with start("lease", "run", "--memory", "1GiB", "--", sys.executable, "-c", code) as process:
        assert first_line(process) == "here\n"
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 9
    assert not list(client.list_leases(states=[LEASE_STATE_ACTIVE]))


def test_ctrl_c_on_a_terminal_is_not_passed_on(start: Start) -> None:
    """The terminal sends SIGINT to the program by itself; where there is none, only the command can."""
    ask = [sys.executable, "-c", "from inferd.cli.program import typed; print('typed:', typed())"]
    for asking, answer in ((ask, "False"), ([sys.executable, "-c", f"import pty; pty.spawn({ask!r})"], "True")):
        with start(program=asking) as process:
            out, _ = process.communicate(timeout=WAIT_S)
        assert out.split() == ["typed:", answer]


@pytest.mark.parametrize(
    ("number", "by_terminal", "sent"),
    [
        (signal.SIGINT, True, []),
        (signal.SIGINT, False, [b"signal 2\n"]),
        (signal.SIGQUIT, True, []),
        (signal.SIGTERM, True, [b"signal 15\n"]),
        (signal.SIGHUP, True, [b"signal 1\n"]),
    ],
)
def test_which_signals_are_passed_on(number: Any, by_terminal: bool, sent: list[Any], monkeypatch: Any) -> None:  # noqa: FBT001 - a case
    """SIGTERM always is; SIGINT and SIGQUIT unless the terminal has sent them to the program already."""
    got: list[bytes] = []
    running = program.Program(Output(Format.TABLE), ["x"], grace_s=5)
    running._guard = SimpleNamespace(send=got.append)  # type: ignore[assignment]
    monkeypatch.setattr(program, "typed", lambda: by_terminal)
    running._signalled(number)
    assert got == sent


def test_a_program_killed_by_a_signal_is_told_as_shells_do(start: Start) -> None:
    """The exit code is 128 and the signal; what went on is told as JSON on stderr."""
    command = ["sh", "-c", "kill -KILL $$"]
    with start("lease", "run", "--memory", "1GiB", "-o", "json", "--", *command) as process:
        out, errors = process.communicate(timeout=WAIT_S)
    began, ended = [json.loads(line) for line in errors.splitlines()]
    assert (process.returncode, out, ended) == (137, "", {"exit_code": 137})
    assert int(began["fencing_token"]) > 0


def test_a_program_whose_lease_is_lost_is_told_to_end(start: Start, client: Client) -> None:
    """When the lease is taken away the program gets SIGTERM, and the command says so and ends with 75."""
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('told'), sys.exit(0)));"
        "print('here', flush=True); signal.pause()"
    )
    with start("lease", "run", "--memory", "1GiB", "--ttl", "1.8", "--", sys.executable, "-c", code) as process:
        assert first_line(process) == "here\n"
        client.release_lease(only_lease(client).lease_id)
        out, errors = process.communicate(timeout=WAIT_S)
    assert (out, process.returncode) == ("told\n", 75)
    said, _, error = errors.partition("the lease is lost")  # on a busy machine it may say more: that the kernel is late
    assert error, said
    assert "is RELEASED" in error


def test_a_holder_that_is_killed_gives_its_lease_back_by_its_ttl(start: Start, client: Client) -> None:
    """After SIGKILL nobody keeps the lease alive: it expires, not before its TTL."""
    with start(
        "lease", "run", "--memory", "10GiB", "--ttl", "1.8", "--", sys.executable, "-c", SAY_AND_WAIT
    ) as process:
        first_line(process)
        lease = only_lease(client)
        process.kill()
        *_, last = client.watch_lease(lease.lease_id)
    assert last.spec.ttl.ToNanoseconds() == 1_800_000_000
    assert last.end_time.ToNanoseconds() >= lease.expire_time.ToNanoseconds()
    assert last.state not in (LEASE_STATE_ACTIVE, LEASE_STATE_RELEASED)


def test_keep_goes_on_until_the_lease_ends(start: Start, client: Client) -> None:
    """`keep` lets a lease outlive its TTL and ends with exit code 1 when someone releases it."""
    lease = client.create_lease(claims.memory(GIB), ttl_s=60)
    with start("lease", "keep", lease.lease_id, "--ttl", "1.5", "-o", "json") as process:
        for _ in range(5):
            assert json.loads(first_line(process))["state"] == "LEASE_STATE_ACTIVE"
        client.release_lease(lease.lease_id)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 1


def test_a_task_is_suspended_and_resumed(inferd: Commands, client: Client) -> None:
    """`suspend` and `resume` tell where the task stands; on one that has ended they are errors."""
    with closing(client.run("fake", "la", max_tokens=900, temperature=0)) as events:
        task_id = next(event.task_id for event in events if event.output.text)
        assert inferd("suspend", task_id).stdout == f"{task_id} is suspended\n"
        assert json.loads(inferd("suspend", task_id, "-o", "json").stdout)["state"] == "TASK_STATE_SUSPENDED"
        assert inferd("resume", task_id).stdout in (f"{task_id} is running\n", f"{task_id} is queued\n")
        inferd("cancel", task_id)
    done = inferd("resume", task_id)
    assert done.exit_code == 1
    assert "CANCELLED" in done.stderr


def test_a_plan_says_whether_it_fits(inferd: Commands, client: Client) -> None:
    """The decision comes with its figures; the exit code tells it to scripts; wrong settings are told."""
    done = inferd("plan", "fake")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "needs: weights 1.0 MB, KV pool 262 kB, workspace 0 B")
    assert done.stdout.splitlines()[2] == "why fake:0: the only device that it may use"
    assert re.fullmatch(r"weights: \d+ B in the file become 1.0 MB in memory", done.stdout.splitlines()[3])
    assert json.loads(inferd("plan", "fake", "-o", "json").stdout)["fits"] is True
    client.create_lease(claims.memory(GIB - 1, device_id="fake:0"), wait=True)
    done = inferd("plan", "huge")
    assert done.exit_code == 1
    assert "does not fit fake:0: it is larger than the device" in done.stdout
    done = inferd("plan", "half")
    assert done.exit_code == 1
    assert "leases that would have to be released first" in done.stdout
    assert "did you mean" in inferd("plan", "fake", "--setting", "draft_token=1").stderr
    assert inferd("plan", "fake", "--setting", "x").exit_code == 2


def test_a_plan_tells_what_windows_save(inferd: Commands, tmp_path: Path) -> None:
    """Of a small gemma3 it says what its pool saves beside one that keeps all tokens; with room for all nothing."""
    pytest.importorskip("transformers")
    from network_to_gguf import write_network  # noqa: PLC0415 - slow to import

    path = tmp_path / "gemma3.gguf"
    write_network("gemma3", path, window=20)
    given = (*("plan", str(path), "--set", "kv_tokens=1024"), *("--set", "max_step_tokens=48"))
    found = json.loads(inferd(*given, "--set", "max_sequences=2", "-o", "json").stdout)["need"]
    whole = json.loads(inferd(*given, "--set", "max_sequences=64", "-o", "json").stdout)["need"]
    assert int(found["kv_saved_bytes"]) == int(whole["kv_bytes"]) - int(found["kv_bytes"]) > 0
    assert whole["kv_saved_bytes"] == "0"
    line = next(line for line in inferd(*given, "--set", "max_sequences=2").stdout.splitlines() if "KV pool: " in line)
    saved, all_bytes = (size(int(amount)) for amount in (found["kv_saved_bytes"], whole["kv_bytes"]))
    assert (
        line == f"KV pool: layers that need the last tokens only save {saved} of {all_bytes} that all tokens would take"
    )


def test_top_shows_how_things_stand(inferd: Commands, client: Client) -> None:
    """One look holds the devices with their accounts, the instances, the leases and who has tasks."""
    lease = client.create_lease(claims.memory(2 * GIB))
    with closing(client.run("fake", "la", max_tokens=900, temperature=0)) as events:
        next(event for event in events if event.output.text)
        shown = inferd("top", "--once").stdout
        document = json.loads(inferd("top", "--once", "-o", "json").stdout)
    for words in ("tok/s · 1 running · 0 waiting · 1 lease", "cpu:0", "11 GB", "2.1 GB", lease.lease_id, "default"):
        assert words in shown
    (instance,) = document["instances"]
    assert (instance["model"], instance["running_tasks"]) == ("fake", 1)
    assert document["host"]["loads"] == [
        {"tenant": "default", "priority": "PRIORITY_NORMAL", "queued_tasks": 0, "running_tasks": 1}
    ]
    assert [each["lease_id"] for each in document["leases"]] == [lease.lease_id]


def test_top_as_json_goes_on(start: Start) -> None:
    """With `-o json` each look is a line, until Ctrl-C."""
    with start("top", "-o", "json", "--interval", "0.1") as process:
        looks = [json.loads(first_line(process)) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert {look["host"]["pid"] for look in looks} == {looks[0]["host"]["pid"]}
