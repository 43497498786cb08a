"""What of a host a worker is to reach, and what it is told of a refusal."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inferd.core.ids import DeviceId, ModelName
from inferd.core.model import ModelSpec
from inferd.runtime import scratch
from inferd.runtime.kept_records import read_spec, write_spec
from inferd.runtime.sandboxing import sandbox_order
from inferd.runtime.scratch import make_scratch, remove_scratch, sweep_scratch
from inferd.sandbox.paths import with_targets
from inferd.sandbox.state import Access, SandboxLevel, State
from inferd.worker.beginning import _files
from inferd.worker.refused import refused_words

NOBODY = 2_000_000_000  # no process has such a number


def spec(**changes: object) -> ModelSpec:
    fields = {"name": ModelName("m"), "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "cpu"}
    more = {"backend_reason": "", "loader": "a:B", "devices": (DeviceId("cpu:0"),)}
    return ModelSpec(**{**fields, **more, **changes})  # type: ignore[arg-type]


def test_links_of_a_model_lead_to_files_that_are_read(tmp_path: Path) -> None:
    """Folders of the hub hold links to blobs elsewhere: these files are reached, and not what is beside them."""
    blobs, model = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    (model / "sub").mkdir(parents=True)
    (blobs / "a").write_text("")
    (blobs / "b").write_text("")
    (model / "sub" / "weights").symlink_to(blobs / "a")
    (model / "gone").symlink_to(blobs / "c")
    assert with_targets([str(model), str(tmp_path / "none")]) == [model, blobs / "a", tmp_path / "none"]


def test_of_a_file_what_is_of_the_same_model_is_read(tmp_path: Path) -> None:
    """Its parts, its recipe, and what an ONNX file has its numbers in; no other model of the folder, nor its papers."""
    names = ("m.onnx", "m.onnx_data", "other.onnx", "paper.pdf", "onnx__MatMul_1", "m.gguf", "n.gguf", "m.txt")
    for name in names:
        (tmp_path / name).write_text("")
    read = {Path(path).name for path in _files(tmp_path / "m.onnx")}
    assert {"m.onnx", "m.onnx_data", "onnx__MatMul_1", "m.txt"} <= read
    assert not {"other.onnx", "paper.pdf", "m.gguf"} & read
    assert not {Path(path).name for path in _files(tmp_path / "m.gguf")} & set(names) - {"m.gguf"}


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
