"""A release: the same bytes twice, wheels for whom they say, and a list of their parts."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = "deploy/release/release.sh"
AARCH64 = 183  # as ELF has it

pytestmark = [
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tree is no clone: a release is of a commit"),
    pytest.mark.skipif(not shutil.which("c++"), reason="c++ is not installed: a wheel has the native library"),
]


def release(source: Path, out: Path, targets: str) -> dict[str, str]:
    """Make one of a clone into a folder; the digests of its files by name."""
    kept = str(out.parent / "environments")  # all but these are made anew
    environment = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, "TARGETS": targets, "REUSE": kept}
    done = subprocess.run([source / SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in out.iterdir()}


@pytest.mark.timeout(3600)
def test_a_release_is_the_same_bytes_twice(tmp_path: Path) -> None:
    """Two releases of a commit, built in different folders, are equal to the byte, and hold what they are to."""
    cross = bool(shutil.which("aarch64-linux-gnu-g++"))
    source = tmp_path / "source"  # one commit, whatever is committed meanwhile
    subprocess.run([shutil.which("git") or "git", "clone", "-q", "--no-hardlinks", ROOT, source], check=True)
    first = release(source, tmp_path / "a", "none")
    second = release(source, tmp_path / "b", "aarch64 none" if cross else "none")
    foreign = [second.pop(name) for name in list(second) if name.endswith("_aarch64.whl")]
    assert len(foreign) == cross
    del first["SHA256SUMS"], second["SHA256SUMS"]
    assert first == second
    wheels = sorted(name for name in first if name.endswith(".whl"))
    native, pure = (
        next(each for each in wheels if each.startswith("inferd-0") and mark in each) for mark in ("linux", "-any")
    )
    assert "manylinux_2_" in native
    assert any(each.startswith("inferd_client-") for each in wheels)
    with zipfile.ZipFile(tmp_path / "a" / native) as wheel:
        names = wheel.namelist()
        assert "inferd_cpu/_native.so" in names
        assert any(name.endswith("share/man/man1/inferd-run.1") for name in names)
        assert any(name.endswith("share/bash-completion/completions/inferd") for name in names)
    with zipfile.ZipFile(tmp_path / "a" / pure) as wheel:
        assert "inferd_cpu/_native.so" not in wheel.namelist()
        assert b"without the native library" in wheel.read("inferd_cpu/_native.txt")
    for path in (tmp_path / "b").glob("*_aarch64.whl"):
        assert "-py3-none-manylinux_2_" in path.name
        with zipfile.ZipFile(path) as wheel:
            assert sorted(wheel.namelist()) == sorted(names)
            machine = int.from_bytes(wheel.read("inferd_cpu/_native.so")[18:20], "little")
            assert machine == AARCH64
            told = next(each for each in wheel.namelist() if each.endswith(".dist-info/WHEEL"))
            assert f"Tag: {path.stem.removeprefix('inferd-').partition('-')[2]}\n" in wheel.read(told).decode()
    parts = json.loads((tmp_path / "a" / "inferd.cdx.json").read_text())
    assert parts["bomFormat"] == "CycloneDX"
    known = {each["name"] for each in parts["components"]}
    assert {"grpcio", "protobuf", "typer", "starlette"} <= known
    references = {each["bom-ref"] for each in (*parts["components"], parts["metadata"]["component"])}
    assert {each["ref"] for each in parts["dependencies"]} == references
