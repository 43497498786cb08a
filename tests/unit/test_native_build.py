"""The build of the native library, on small sources of its own."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = Path("plugins/inferd_cpu/native")
LIBRARY = NATIVE.parent / "_native.so"
NOTE = NATIVE.parent / "_native.txt"
WIDTH = '#include "width.h"\n'
SOURCES = {
    "width.h": "#pragma once\n#define LANES 4\n",
    "sum.cpp": f"// isa: plain avx2 neon\n{WIDTH}namespace ISA {{ int lanes() {{ return LANES; }} }}\n",
    "api.cpp": f"""{WIDTH}namespace plain {{ int lanes(); }}
extern "C" __attribute__((visibility("default"))) int inferd_lanes() {{ return plain::lanes(); }}
""",
    "check_sum.cpp": 'extern "C" int inferd_lanes();\nint main() { return inferd_lanes() == 4 ? 0 : 1; }\n',
}
BUILD_WHEEL = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with the build scripts and other sources."""
    native = tmp_path / NATIVE
    native.mkdir(parents=True)
    for name in ("build.py", "hook.py"):
        (native / name).write_text((ROOT / NATIVE / name).read_text())
    for name, text in SOURCES.items():
        (native / name).write_text(text)
    return tmp_path


@pytest.fixture
def build(tree: Path) -> ModuleType:
    """The build script of the tree, imported."""
    spec = importlib.util.spec_from_file_location("native_build", tree / NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.find_compiler()
    except module.BuildError as error:
        pytest.skip(str(error))
    return module


def objects(tree: Path) -> dict[str, int]:
    """When each object was made."""
    return {path.name: path.stat().st_mtime_ns for path in (tree / "build").rglob("*.o")}


def old_compiler(folder: Path, refused: str) -> str:
    """A compiler that does not know an option."""
    script = folder / "old-c++"
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" {refused} "*) echo "error: what is {refused}?" >&2; exit 1;; esac\n'
    )
    script.write_text(script.read_text() + 'exec c++ "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_a_source_with_the_mark_is_compiled_once_for_each_set(tree: Path, build: ModuleType) -> None:
    """One object for each set of this processor that a source names, one for a source without the mark."""
    result = build.build()
    sets = {"plain", "avx2", "neon"} & set(result.built)
    assert set(objects(tree)) == {"api.o", *(f"sum.{name}.o" for name in sets)}
    assert result.path == tree / LIBRARY
    assert result.path.exists()


def test_only_what_changed_is_compiled_again(tree: Path, build: ModuleType) -> None:
    """A second build compiles nothing; after a header's change, what includes it and no more."""
    (tree / NATIVE / "alone.cpp").write_text("int alone() { return 1; }\n")
    build.build()
    first = objects(tree)
    build.build()
    assert objects(tree) == first
    (tree / NATIVE / "width.h").write_text("#pragma once\n#define LANES 8\n")
    build.build()
    again = {name for name, made in objects(tree).items() if made != first[name]}
    assert again == set(first) - {"alone.o"}


def test_a_program_is_linked_with_the_library(tree: Path, build: ModuleType) -> None:
    """A check program calls what the library exports."""
    program = tree / "check_sum"
    build.build(out=program, program="check_sum")
    subprocess.run([program], check=True)


def test_unknown_sets_are_left_out(tree: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that does not know an instruction set builds the others, and the note says which is missing."""
    processor = build._read_processor(build.find_compiler())
    name, flags = [item for item in build.INSTRUCTION_SETS[processor].items() if item[0] != "plain"][-1]
    monkeypatch.setenv("CXX", old_compiler(tree, flags[-1]))
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tree / LIBRARY)])
    build.main()
    why, fix = (tree / NOTE).read_text().splitlines()
    assert why == f"without {name}: the compiler is too old for them"
    assert "install" in fix
    assert (tree / LIBRARY).exists()


def test_the_note_says_what_failed(tree: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails leaves a note with the first error; the next one that works removes it."""
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tree / LIBRARY)])
    (tree / NATIVE / "api.cpp").write_text("#error nonsense\n")
    with pytest.raises(SystemExit, match="nonsense"):
        build.main()
    why, _ = (tree / NOTE).read_text().splitlines()
    assert "api.cpp:1" in why
    assert "nonsense" in why
    (tree / NATIVE / "api.cpp").write_text(SOURCES["api.cpp"])
    build.main()
    assert not (tree / NOTE).exists()


def test_no_compiler(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no compiler, the error names those that were looked for, and the package to install."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no-such-compiler") as caught:
        build.build()
    assert "apt install g++" in caught.value.fix


@pytest.mark.parametrize("compiler", ["", "no-such-compiler"])
def test_the_wheel(tree: Path, build: ModuleType, compiler: str) -> None:
    """A wheel with the library is bound to the platform; without a compiler it is pure and holds the note instead."""
    assert build.find_compiler()
    (tree / NATIVE.parent / "__init__.py").write_text("")
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for name in ("README.md", "LICENSE"):
        (tree / name).write_text("")
    for package in (
        "protos/inferd_api",
        "kernel/inferd",
        "plugins/inferd_torch",
        "plugins/inferd_weights",
        "clients/python/inferd_client",
    ):
        (tree / package).mkdir(parents=True)
        (tree / package / "__init__.py").write_text("")
    environment = {**os.environ, "CXX": compiler}
    subprocess.run([sys.executable, "-c", BUILD_WHEEL, tree], cwd=tree, env=environment, check=True)
    (wheel,) = tree.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.endswith("-py3-none-any.whl") == bool(compiler)
    assert ("inferd_cpu/_native.so" in names, "inferd_cpu/_native.txt" in names) == (not compiler, bool(compiler))
    assert not [name for name in names if name.startswith("inferd_cpu/native/")]


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    """A backend that works and lacks something is READY, and `inferd doctor` notes what and how to mend it."""
    (tmp_path / "lame.py").write_text(
        "from inferd.plugin import BackendSpec, DeviceInfo, Probe, hookimpl\n"
        "class Lame:\n"
        "    def probe(self):\n"
        "        device = DeviceInfo(device_id='cpu:0', description='a processor', memory_bytes=1)\n"
        "        return Probe(devices=(device,), why='no wings', fix='buy wings')\n"
        "    def measure(self, request): ...\n"
        "    def load(self, request, progress): ...\n"
        "@hookimpl\n"
        "def inferd_backends():\n"
        "    return [BackendSpec(name='lame', loader='lame:Lame', formats=('lame',), description='lame')]\n"
    )
    command = [sys.executable, "-m", "inferd", "doctor", "-o", "json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "INFERD_PLUGIN_MODULES": '["lame"]'}
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True, timeout=60)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    found = checks["backend lame"]
    assert found["result"] == "note"
    assert found["found"] == "READY cpu:0 (a processor); no wings"
    assert found["fix"] == "buy wings"
