"""`inferd audit` against kernels that end in order, that are killed, and stores that somebody has written to."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.cli.store import opened
from inferd.runtime.kept_trail import HEAD, read_parts
from inferd.store.store import NO_TENANT, Append, Drop, Kind, Put
from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.quota_pb2 import Quota
from inferd_client import Client


def inferd(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def told(*words: object) -> Any:
    return json.loads(inferd(*words, "-o", "json").stdout)


@contextmanager
def kernel_of(folder: Path) -> Iterator[KernelProcess]:
    """A kernel with a store, whose folders the command line finds, too."""
    environment = {"INFERD_BACKENDS": "[]", "INFERD_STORE__URL": f"sqlite:{folder}/store"}
    with kernel_process(folder, environment=environment) as kernel:
        yield kernel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("INFERD_STORE__URL", f"sqlite:{tmp_path}/store")
    return tmp_path


@pytest.mark.e2e
def test_a_trail_is_checked_over_a_kill_a_restart_and_whatever_somebody_does_to_its_rows(folder: Path) -> None:
    """A killed kernel leaves a chain that holds and the next one goes on; each row that is changed or gone is found."""
    with kernel_of(folder) as kernel:
        with Client(kernel.address) as client:
            client.create_quota(Quota(tasks=5))
        kernel.process.send_signal(signal.SIGKILL)
        kernel.process.wait(60)
    left = told("verify", "--offline")
    assert (left["ok"], left["checkpoints"], left["unsealed"]) == (True, 1, left["last"] - 1)
    with kernel_of(folder) as kernel:
        at = ("--address", kernel.address)
        assert told("verify", *at)["checkpoints"] == 2  # what the kill has left is signed first
        shown = [json.loads(line) for line in inferd("tail", *at, "-o", "json", "-n", 50).stdout.splitlines()]
        assert [each["event"] for each in shown if each["type"] == "kernel"] == ["started", "started"]
        assert "CreateQuota" in inferd("tail", *at).stdout
        (folder / "kept").write_text(inferd("checkpoint", *at).stdout, encoding="ascii")
    whole = told("verify", "--offline", "--checkpoint", folder / "kept")
    assert (whole["ok"], whole["unsealed"]) == (True, 0)
    assert inferd("export", "--offline", "--to", folder / "trail.jsonl").exit_code == 0
    assert told("verify", folder / "trail.jsonl", "--key", folder / "state" / "audit.pub") == whole
    assert inferd("export", "--offline", "--to", folder / "trail.jsonl").exit_code == 1  # it is there
    command = ["store", "keys", "shred", "blue", "--yes"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert told("verify", "--offline")["last"] == whole["last"] + 2
    assert '"event":"tenant shredded","name":"blue"' in inferd("export", "--offline").stdout
    _check_rows()
    _check_files(folder)


def _check_rows() -> None:
    """Each block of lines, and each record, that somebody changes or removes is found, though the store takes it."""
    with opened(None, None) as store:
        (_, segments, _) = read_parts(store)
        (key,) = [segment.key for segment in segments]
        blocks = list(store.pieces(NO_TENANT, Kind.AUDIT, key))
        (head,) = [record for record in store.records(Kind.AUDIT) if record.key == HEAD]
    lines = [len(block.split(b"\n")) for block in blocks]
    firsts = [1 + sum(lines[:place]) for place in range(len(blocks))]

    def with_blocks(changed: list[tuple[int, bytes]]) -> Result:
        with opened(None, None) as store:
            pieces = [Append(NO_TENANT, Kind.AUDIT, key, number, value) for number, value in changed]
            store.write([Drop(NO_TENANT, Kind.AUDIT, key, record=False), *pieces])
        return inferd("verify", "--offline", "-o", "json")

    right = list(zip(firsts, blocks, strict=True))
    for place in range(len(blocks)):
        gone = with_blocks([each for each in right if each is not right[place]])
        assert _kind(gone) == ("truncated" if place == len(blocks) - 1 else "removed")
        other = blocks[place].replace(b'"local"', b'"other"').replace(b'"kernel"', b'"kermit"', 1)
        if other != blocks[place]:
            assert _kind(with_blocks([(n, other if v is blocks[place] else v) for n, v in right])) == "changed"
    assert with_blocks(right).exit_code == 0
    with opened(None, None) as store:
        store.write([Drop(NO_TENANT, Kind.AUDIT, HEAD), *[Drop(NO_TENANT, Kind.AUDIT, key)]])
    assert _kind(inferd("verify", "--offline", "-o", "json")) == "truncated"  # a checkpoint apart from the store knows
    with opened(None, None) as store:
        store.write([Put(NO_TENANT, Kind.AUDIT, HEAD, head.value), segments[0].put()])
    assert with_blocks(right).exit_code == 0


def _check_files(folder: Path) -> None:
    """Of a file that was exported it is said which line is wrong, and in which way; a key has to be known for it."""
    lines = (folder / "trail.jsonl").read_text(encoding="ascii").splitlines()
    wrong = folder / "wrong.jsonl"
    for kind, changed in (
        ("changed", [lines[0], lines[1].replace('"', "'", 1), *lines[2:]]),
        ("removed", [lines[0], *lines[2:]]),
        ("inserted", [*lines[:2], *lines[1:]]),
        ("reordered", [lines[0], lines[2], lines[1], *lines[3:]]),
        ("truncated", lines[:4]),
    ):
        wrong.write_text("\n".join([*changed, ""]), encoding="ascii")
        assert _kind(inferd("verify", wrong, "--checkpoint", folder / "kept", "-o", "json")) == kind
    (folder / "other.pub").write_text("0" * 64, encoding="ascii")
    assert _kind(inferd("verify", folder / "trail.jsonl", "--key", folder / "other.pub", "-o", "json")) == "signature"
    (folder / "state" / "audit.pub").unlink()
    assert json.loads(inferd("verify", wrong, "-o", "json").stdout)["error"]["reason"] == "USAGE"


def _kind(result: Result) -> str:
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["reason"], error["code"]) == (1, "AUDIT_BROKEN", "DATA_LOSS")
    kind: str = error["metadata"]["kind"]
    return kind
