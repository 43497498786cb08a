"""What of a host a worker is to reach, and what it is told of a refusal."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inferd.config import Settings
from inferd.core.ids import DeviceId, ModelName
from inferd.core.model import ModelSpec
from inferd.errors import ModelLoadError
from inferd.folders import config_path
from inferd.runtime import scratch
from inferd.runtime.driver_limits import sandbox_limits
from inferd.runtime.kept_records import read_spec, write_spec
from inferd.runtime.sandboxing import sandbox_order
from inferd.runtime.scratch import make_scratch, remove_scratch, sweep_scratch
from inferd.sandbox.state import Access, SandboxLevel, State
from inferd.sandbox.walls import _group_limit
from inferd.worker.beginning import _SHARED, Start, _belongings, _order
from inferd.worker.belongings import Belongings
from inferd.worker.refused import refused_words
from inferd_api.worker.v1 import load_pb2

NOBODY = 2_000_000_000  # no process has such a number


def spec(**changes: object) -> ModelSpec:
    fields = {"name": ModelName("m"), "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "cpu"}
    more = {"backend_reason": "", "loader": "a:B", "devices": (DeviceId("cpu:0"),)}
    return ModelSpec(**{**fields, **more, **changes})  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of somebody who has models and other things."""
    return tmp_path.resolve()


def write(*paths: Path, text: bytes = b"") -> Path:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return paths[0]


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def found(path: Path, *, roots: tuple[Path, ...] = (), withheld: tuple[Path, ...] = ()) -> tuple[set[Path], list[str]]:
    belongings = Belongings(roots, withheld)
    belongings.add(path)
    return set(belongings.paths), [
        words.partition(", and that is none of the model's files")[0] for words in belongings.refused
    ]


def test_links_of_a_snapshot_lead_to_its_blobs(home: Path) -> None:
    """Folders of the hub's cache hold links to blobs elsewhere: these are reached, and not what is beside them."""
    hub = home / "hub" / "models--a--b"
    blobs = [write(hub / "blobs" / name) for name in ("1", "2", "3", "4")]
    snapshot = hub / "snapshots" / "0123"
    link(snapshot / "sub" / "weights", "../../../blobs/1")
    link(snapshot / "gone", "../../blobs/none")
    link(snapshot / "m.onnx", "../../blobs/2")
    link(snapshot / "m.onnx_data", "../../blobs/3")
    assert found(snapshot) == ({snapshot, *blobs[:3]}, [])
    assert found(snapshot / "m.onnx") == ({*blobs[1:3]}, [])
    linked = link(home / "mine", snapshot)
    assert found(linked) == ({snapshot, *blobs[:3]}, [])
    link(hub / "blobs" / "5", "/etc/passwd")
    link(snapshot / "hostile", "../../blobs/5")
    assert len(found(snapshot)[1]) == 1


def test_a_link_out_of_a_model_is_followed_where_the_operator_says_so(home: Path) -> None:
    """In a folder, in a folder that is reached by a link, beside a file: each is refused, and told with its target."""
    secret, state = write(home / "other" / "secret"), write(home / "srv" / "state" / "pepper")
    model = write(home / "model" / "own").parent
    out = link(model / "vocab.json", secret)
    assert found(model) == ({model}, [f"the link {out} leads to {secret}"])
    assert found(model, roots=(home / "other",)) == ({model, secret}, [])
    kept = link(model / "kept", state)
    refused = found(model, roots=(home,), withheld=(state.parent,))[1]
    assert refused == [f"the link {kept} leads to {state}"]
    above = link(model / os.fsdecode(b"\xff"), home / "srv")
    refused = found(model, roots=(home,), withheld=(state.parent,))[1]
    assert f"the link {model}/\\xff leads to {home}/srv" in refused
    for path in (kept, out, above):
        path.unlink()
    inside = write(home / "common" / "tok.json")
    folder = link(model / "tokenizer", inside.parent)
    assert found(model, roots=(inside.parent,)) == ({model, inside.parent}, [])
    deep = link(inside.parent / "deep", secret)
    assert found(model, roots=(inside.parent,))[1] == [f"the link {deep} leads to {secret}"]
    for path in (deep, folder):
        path.unlink()
    beside = link(home / "files" / "m.json", secret)
    assert found(write(home / "files" / "m.onnx"))[1] == [f"the link {beside} leads to {secret}"]
    assert found(link(home / "mine.gguf", state), withheld=(state.parent,))[1]
    (words,) = found(home / "srv", withheld=(state.parent,))[1]
    assert words.startswith(f"{home}/srv has {state.parent} in it")
    uploaded = write(state.parent / "blobs" / "m" / "own").parent
    assert found(uploaded, withheld=(state.parent,)) == ({uploaded}, [])


def test_a_load_is_refused_that_follows_such_a_link(home: Path) -> None:
    """Of a model, or a folder that a setting names; the error says link, target and the setting that allows it."""
    secret = write(home / "secret")
    adapter = link(home / "adapter" / "a", secret).parent
    settings = Settings(data_dir=home / "data", state_dir=home / "state", sources={"roots": (home / "other",)})  # type: ignore[arg-type]
    load = load_pb2.Load(path=str(write(home / "m.gguf")))
    load.settings["adapter"].str_value = str(adapter)
    load.sandbox.reads.append(str(adapter))
    load.limits.sandbox.CopyFrom(sandbox_limits(settings))
    assert list(load.limits.sandbox.roots) == [str(home / "other")]
    assert {str(config_path()), str(home / "data"), str(home / "state")} <= set(load.limits.sandbox.withheld)
    start = Start(load, refused=_belongings(load).refused)
    with pytest.raises(ModelLoadError, match=f"the link {adapter}/a leads to {secret}, .* sources.roots"):
        start.check()


def test_what_a_model_links_to_of_its_own_is_read(home: Path) -> None:
    """A link to another file of the folder, to libraries, and a model that is linked itself, with its parts."""
    model = write(home / "model" / "own").parent
    for number, target in enumerate(("own", "/usr", Path(os.__file__))):
        link(model / str(number), target)
    assert found(model) == ({model}, [])
    parts = [write(home / "disk" / f"m-0000{number}-of-00002.gguf") for number in (1, 2)]
    linked = [link(home / "mine" / part.name, part) for part in parts]
    assert found(linked[0]) == (set(parts), [])
    assert found(parts[0]) == (set(parts), [])


def test_of_a_file_what_is_of_the_same_model_is_read(home: Path) -> None:
    """Its parts, its recipe with what that says, tokenizers, and what it has its numbers in; nothing else beside it."""
    places = ("weights/w.bin", "w.safetensors", "onnx__MatMul_1", ".netrc", "../up.bin", "id_ed25519", "m-secret.key")
    text = b"".join(b"\x0a\x08location\x12" + bytes([len(each)]) + each.encode() for each in places)
    model = write(home / "m.onnx", text=text)
    write(home / "m.recipe.toml", text=b'labels = "names.txt"')
    own = ("weights/w.bin", "w.safetensors", "onnx__MatMul_1", "m.onnx_data", "m_1.bin", "m.txt", "names.txt")
    write(*(home / name for name in (*own, "tokenizer.json")))
    others = ("other.onnx", "paper.pdf", ".netrc", "id_ed25519", "payroll.json", "other.bin", "m-secret.key", "m.gguf")
    write(*(home / name for name in others), home / "merchants.txt", home.parent / "up.bin")
    assert found(model) == ({model, home / "m.recipe.toml", *(home / name for name in (*own, "tokenizer.json"))}, [])
    assert found(home / "m.gguf") == ({home / "m.gguf", home / "m.recipe.toml"}, [])


def test_what_a_model_reaches_is_kept_with_it() -> None:
    """Its backend's devices and the files of its settings outlive a kernel; older records have paths among settings."""
    access = Access(devices=("/dev/x*",), reads=("/a",), writes=("/b",), network=True)
    kept = read_spec(json.loads(json.dumps(write_spec(spec(access=access)))))
    assert kept.access == access
    order = sandbox_order(kept)
    assert (list(order.devices), list(order.reads), list(order.writes), order.network) == (
        ["/dev/x*"],
        ["/a"],
        ["/b"],
        True,
    )
    assert not sandbox_order(kept, looks=True).writes
    compiles = spec(access=Access(compilers=True))
    assert (sandbox_order(compiles).programs, sandbox_order(compiles, host=False).programs) == (False, True)
    older = json.loads(json.dumps(write_spec(spec(values={"adapter": "/lora", "kind": "x", "n": 1}))))
    del older["access"]
    order = sandbox_order(read_spec(older))
    assert (list(order.reads), list(order.writes)) == (["/lora"], ["/lora"])


def refuse(*about: object) -> None:
    raise PermissionError(1, "Operation not permitted", *about)


def refuse_behind(path: str) -> None:
    try:
        refuse(path)
    except PermissionError as error:
        raise ValueError("no model") from error


def test_a_refusal_names_what_was_tried() -> None:
    """The system says that it is not permitted; the client is told the file, or the call, also behind another error."""
    with pytest.raises(ValueError, match="no model") as failed:
        refuse_behind("/x")
    assert "access to '/x'" in refused_words(failed.value)
    with pytest.raises(PermissionError) as refused:
        refuse()
    assert '`raise PermissionError(1, "Operation not permitted", *about)` (refuse)' in refused_words(refused.value)
    assert refused_words(ValueError("x")) == ""
    assert refused_words(FileNotFoundError(2, "No such file", "x")) == ""


def test_what_a_dead_kernel_left_of_scratch_goes(tmp_path: Path) -> None:
    """That of this kernel stays, and so does what has another name."""
    own = make_scratch(tmp_path)
    left = tmp_path / f"{NOBODY}-abc.scratch"
    (left / "in").mkdir(parents=True)
    other = tmp_path / f"{NOBODY}-abc.log"
    other.write_text("")
    sweep_scratch(tmp_path)
    for thread in threading.enumerate():
        if thread.name == "scratch":
            thread.join()
    assert own.is_dir()
    assert not left.exists()
    assert other.exists()


def test_scratch_goes_however_deep_and_closed_it_is(tmp_path: Path) -> None:
    """A worker makes more folders in each other than Python recurses, a path has room for, or descriptors are there.

    Nor does it matter that their owner may not list them, or that links lead out of it.
    """
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    own = make_scratch(tmp_path)
    (own / "out").symlink_to(kept)
    at = os.open(own, os.O_PATH)
    for _ in range(1100):
        os.mkdir("d" * 20, mode=0o300, dir_fd=at)
        below = os.open("d" * 20, os.O_PATH, dir_fd=at)
        os.close(at)
        at = below
    os.symlink(kept, "out", dir_fd=at)
    os.close(at)
    remove_scratch(own).join()
    assert [each.name for each in tmp_path.rglob("*")] == ["kept", "file"]


def test_what_stays_of_a_worker_ends_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails when its remains are removed is logged."""
    monkeypatch.setattr(scratch, "remove_tree", lambda _: 1 / 0)
    remove_scratch(tmp_path).join()
    assert f"stays: {tmp_path}" in caplog.text


def test_a_state_in_words() -> None:
    """As people read it."""
    assert str(State(SandboxLevel.FULL)) == "full"
    assert str(State(SandboxLevel.PARTIAL, ("a", "b"))) == "partial(a; b)"


def test_it_is_tried_in_a_process() -> None:
    """What `inferd doctor` asks: as much of a sandbox as this host allows is entered, and told; nothing fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "inferd.sandbox", "4096"],
        input="\n", text=True, capture_output=True, timeout=60, check=True,
        env={**os.environ},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["level"] in SandboxLevel.__members__
    assert bool(told["reasons"]) is (told["level"] != "FULL")


OLDER = """
import sys
from inferd.sandbox import landlock
version = min(landlock.version(), 5)
landlock.version = lambda: version
from inferd.sandbox.entry import Sandbox
from inferd.sandbox.state import Order
print(version, Sandbox(Order()).seal())
"""


def test_an_older_landlock_is_told_for_what_it_lets_out() -> None:
    """Before version 6 a sealed worker, too, may end other processes, as it ends its cells: the state says so."""
    done = subprocess.run([sys.executable, "-P", "-c", OLDER], text=True, capture_output=True, timeout=60, check=True)
    version, _, state = done.stdout.partition(" ")
    if version != "5":
        pytest.skip("this system has no such Landlock")
    assert state.startswith("partial(")
    assert "by descriptors of processes, by which cells are ended, also later" in state


ONLINE = """
import socket, sys
from inferd.sandbox.entry import Sandbox
from inferd.sandbox.state import Order
server = socket.create_server(("127.0.0.1", 0))
before = socket.getaddrinfo("localhost", 80)
Sandbox(Order(network=True)).seal()
assert socket.getaddrinfo("localhost", 80) == before
socket.create_connection(server.getsockname()).close()
with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
    datagrams.bind(("127.0.0.1", 0))
open("/etc/hosts").close()
"""


def test_who_asks_for_the_network_has_it() -> None:
    """Names are resolved, as before; connections are made."""
    subprocess.run([sys.executable, "-P", "-c", ONLINE], timeout=60, check=True)


@pytest.mark.parametrize(("group", "limit"), [("inferd-prod.scope", float("inf")), (f"inferd-{os.getppid()}-m", 300)])
def test_a_limit_that_is_the_kernels_too_bounds_no_worker(home: Path, group: str, limit: float) -> None:
    """What a worker inherits of its kernel's control group, however that is called, is none of its own."""
    write(home / "proc" / "self" / "cgroup", text=f"0::/{group}".encode())
    write(home / "sys" / "fs" / "cgroup" / group / "pids.max", text=b"300")
    assert _group_limit("pids", "pids.max", root=home) == limit


def test_ranks_reach_each_other_and_share_memory_on_devices_alone() -> None:
    """The order for several ranks is for a loopback; files in shared memory are made where devices compute."""
    one, host = load_pb2.Load(device="cpu:0", ranks=["cpu:0"]), load_pb2.Load(device="cpu:0", ranks=["cpu:0"] * 2)
    cards = load_pb2.Load(device="cuda:0", ranks=["cuda:0", "cuda:1"])
    orders = [_order(load, "/scratch", reads=()) for load in (one, host, cards)]
    assert [order.loopback for order in orders] == [False, True, True]
    assert [order.writes for order in orders] == [("/scratch",)] * 3
    assert [order.shares for order in orders] == [(), (), _SHARED]
