"""`inferd store backup` and `restore`, with a kernel and without one."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import opened_store, raw_value
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.core.audit import read_line
from inferd.core.key import Key, Secret
from inferd.core.principal import Principal
from inferd.runtime.audit_key import read_audit_key
from inferd.runtime.kept_keys import read_key, write_key
from inferd.runtime.kept_leases import FENCING, token_after
from inferd.runtime.kept_trail import all_lines, read_parts
from inferd.store.store import NO_TENANT, Append, Drop, Kind, Put
from inferd.testing.kernel import kernel_process


def inferd(*words: object, fails: bool = False) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["store", *map(str, words), "-o", "json"])
    assert (result.exit_code != 0) == fails, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told["error"] if fails else told


def store_at(path: Path, token: bytes = b"7") -> Path:
    with closing(opened_store(path)) as store:
        store.write([Put(NO_TENANT, Kind.COUNT, FENCING, token), Put(NO_TENANT, Kind.MODEL, "m", b'{"name":"m"}')])
    return path


def test_a_running_kernel_makes_the_backup_and_bars_a_restoration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words with a kernel and without one: it makes the file while it runs; a store that it has stays its."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("INFERD_STORE__URL", f"sqlite:{store_at(tmp_path / 's')}")
    with kernel_process(
        tmp_path, environment={"INFERD_BACKENDS": "[]", "INFERD_STORE__URL": f"sqlite:{tmp_path}/s"}
    ) as kernel:
        told = inferd("backup", "b", "--address", kernel.address)
        assert (told["by"], told["path"], told["store"]) == ("the kernel", f"{tmp_path}/b", f"{tmp_path}/s")
        assert told["size_bytes"] == (tmp_path / "b").stat().st_size
        refused = inferd("backup", "b", "--address", kernel.address, fails=True)
        assert (refused["reason"], "--replace" in refused["message"]) == ("INVALID_FIELD", True)
        assert inferd("backup", "b", "--replace", "--address", kernel.address)["by"] == "the kernel"
        for command in (("restore", "b"), ("backup", "c", "--file", tmp_path / "s")):
            assert inferd(*command, fails=True)["metadata"]["cause"] == "in use"
    told = inferd("backup", "c", "--address", kernel.address)
    assert (told["by"], told["make_time"][-1]) == ("this command", "Z")
    assert inferd("restore", "b", "--check")["path"] is None
    assert not list(tmp_path.glob("s.replaced*"))
    told = inferd("restore", "b")
    assert (told["path"], told["models"], told["tasks"], told["schema"]) == (f"{tmp_path}/s", 1, 0, 2)
    assert Path(told["aside"]).exists()


def test_damage_and_no_file_are_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged backup is STORE_DAMAGED with the place, no file NO_STORE, and what is no backup is said to be none."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    file = store_at(tmp_path / "s")
    with closing(opened_store(file)) as store:
        store.write([Append("a", Kind.TASK, "t", 1, b"piece of it")])
    inferd("backup", tmp_path / "b", "--file", file)
    value = raw_value(tmp_path / "b", "pieces", "number = 1")
    content = (tmp_path / "b").read_bytes().replace(value, value[:-1] + bytes([value[-1] ^ 1]))
    (tmp_path / "b").write_bytes(content)
    for more in ((), ("--check",)):
        error = inferd("restore", tmp_path / "b", "--file", file, *more, fails=True)
        assert (error["reason"], "'a\\x00task\\x00t\\x001'" in error["message"]) == ("STORE_DAMAGED", True)
    assert inferd("restore", tmp_path / "none", "--file", file, fails=True)["reason"] == "NO_STORE"
    (tmp_path / "text").write_text("text")
    assert "is no backup" in inferd("restore", tmp_path / "text", "--file", file, fails=True)["message"]
    assert inferd("check", "--file", file)["records"]["model"] == 1


def test_a_restored_store_gives_no_token_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether what was there is known, damaged or lost: tokens rise from each restoration of one backup to the next."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    file = store_at(tmp_path / "s")
    inferd("backup", tmp_path / "b", "--file", file)
    given = 7
    for fate in ("known", "higher than the clock", "damaged"):
        if fate == "damaged":
            file.write_bytes(b"\xa5" * 9000)
            given = 7
        above = int(inferd("restore", tmp_path / "b", "--file", file)["fencing_tokens_above"])
        assert above >= given
        with closing(opened_store(file)) as store:
            assert [int(record.value) for record in store.records(Kind.COUNT)] == [above]
            given = above + (1 << 60 if fate == "known" else 5)
            store.write([Put(NO_TENANT, Kind.COUNT, FENCING, str(given).encode())])


def test_a_restoration_is_in_the_audit_trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the kernel's store was put back is an entry of the trail that it has then; of another store it is none."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    file = store_at(tmp_path / "s")
    read_audit_key(tmp_path / "mine" / "audit.key")
    inferd("backup", tmp_path / "b", "--file", file)
    for url in ("elsewhere", "s"):
        monkeypatch.setenv("INFERD_STORE__URL", f"sqlite:{tmp_path / url}")
        inferd("restore", tmp_path / "b", "--file", file)
        with closing(opened_store(file)) as store:
            lines = list(all_lines(store, read_parts(store)[1]))
        told = [(line.said.get("event"), line.said.get("name")) for line in map(read_line, lines)]
        assert told == ([(None, None), ("store restored", "b"), (None, None)] if url == "s" else [])


def test_a_command_about_another_store_leaves_the_kernels_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of a store that --file names are rotated, which its trail tells: what lies apart is that of the kernel's."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("INFERD_STORE__KEY_FILE", str(tmp_path / "store.key"))
    monkeypatch.setenv("INFERD_STORE__URL", f"sqlite:{tmp_path}/own")
    for name in ("own", "other"):
        store_at(tmp_path / name)
    head, kept = tmp_path / "mine" / "audit.head", list[str]()
    for name in ("own", "other"):
        inferd("keys", "rotate", "--file", tmp_path / name)
        kept.append(head.read_text())
    assert kept[0] == kept[1]


def test_tokens_rise_with_the_clock_and_with_what_is_known() -> None:
    """A second later they are a million higher; a clock that was set back gives none again."""
    first = token_after(7, wall_s=1000.5)
    assert token_after(7, wall_s=1001.5) == first + 1_000_000
    assert token_after(7, first + 3, wall_s=10.0) == first + 3
    assert token_after(wall_s=10.0) == 10_000_000


def key(key_id: str, *, revoked: float | None = None, number: int = 1) -> Put:
    """A key; the number of its credential says how often it was rotated."""
    principal = Principal(name=key_id, roles=frozenset({"user"}), tenants=("a",))
    made = Key(key_id=key_id, principal=principal, created=1.0, revoked=revoked, secrets=(Secret(number, b"x"),))
    return Put(NO_TENANT, Kind.KEY, key_id, write_key(made, None))


def test_keys_that_were_revoked_or_rotated_since_the_backup_stay_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store that is set aside says of them is carried over and told; what the backup revoked stays."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    file = store_at(tmp_path / "s")
    with closing(opened_store(file)) as store:
        store.write([key("left"), key("gone"), key("new"), key("lost"), key("old", revoked=2.0)])
        store.write([Put(NO_TENANT, Kind.RULE, "r", b"{}"), Put(NO_TENANT, Kind.QUOTA, "q", b"{}")])
    inferd("backup", tmp_path / "b", "--file", file)
    with closing(opened_store(file)) as store:
        store.write([key("gone", revoked=3.0), key("new", number=2), key("old"), Drop(NO_TENANT, Kind.KEY, "lost")])
    told = inferd("restore", tmp_path / "b", "--file", file)
    names = (
        "keys",
        "keys_over",
        "rules",
        "quotas",
        "revocations_known",
        "revoked_keys",
        "rotated_keys",
        "strange_keys",
    )
    assert [told[name] for name in names] == [5, 2, 1, 1, True, ["gone"], ["new"], ["lost"]]
    with closing(opened_store(file)) as store:
        kept = {record.key: read_key(record.value)[0] for record in store.records(Kind.KEY)}
    assert {name: (each.revoked, each.secrets[0].number) for name, each in kept.items()} == {
        "left": (None, 1),
        "gone": (3.0, 1),
        "new": (None, 2),
        "lost": (None, 1),
        "old": (2.0, 1),
    }


def test_a_restoration_that_knows_of_no_revocations_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no store that could be read, people are warned that keys hold again, and told the command against it."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "mine"))
    with closing(opened_store(store_at(tmp_path / "s"))) as store:
        store.write([key("one")])
    inferd("backup", tmp_path / "b", "--file", tmp_path / "s")
    result = CliRunner().invoke(app, ["store", "restore", str(tmp_path / "b"), "--file", str(tmp_path / "t")])
    text = " ".join(result.stdout.split())
    assert "1 model, 0 leases, of which 0 are over, 1 key, of which 0 hold no longer, 0 rules and 0 quotas" in text
    assert "revoked since the backup hold again" in text
    assert "inferd keys revoke KEY" in text
