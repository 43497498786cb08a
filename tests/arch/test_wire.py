"""The wire API: its generated code, its conventions, and its agreement with the values of the core."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType

import grpc
import pytest

import inferd.core
import inferd.plugin
import inferd.sandbox
import inferd_api.v1
from inferd.reasons import BY_REASON
from inferd_api.v1 import errors_pb2

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="session")
def stubs() -> ModuleType:
    """The script that `make stubs` and `make lint` run."""
    spec = importlib.util.spec_from_file_location("stubs", Path(__file__).with_name("stubs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def image(stubs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wire API as a descriptor set with its comments."""
    path = tmp_path_factory.mktemp("image") / "inferd.binpb"
    stubs.write_image(path)
    return path


def test_stubs_are_fresh(stubs: ModuleType, tmp_path: Path) -> None:
    """The committed protobuf code is what the generator makes of the proto files, byte by byte."""
    stubs.generate(tmp_path)
    fresh, committed = stubs.generated(tmp_path), stubs.generated(stubs.PROTOS)
    assert set(fresh) == set(committed)
    assert not [name for name, content in fresh.items() if content != committed[name]], "run: make stubs"


def test_lint(image: Path) -> None:
    """Our own proto files keep buf's STANDARD rules, and every element has a comment; for the others, see buf.yaml."""
    buf("lint", image, *(word for name in ("v1", "agent", "worker") for word in ("--path", f"inferd_api/{name}")))


def test_compatible(image: Path, stubs: ModuleType) -> None:
    """Nothing that a client of the baseline relies on was taken away."""
    buf("breaking", image, "--path", "inferd_api/v1", "--against", stubs.BASELINE)


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


WIRE = {
    name: {value.name: value.number for value in kind.values}
    for module in modules(inferd_api.v1)
    if module.__name__.endswith("_pb2")
    for name, kind in module.DESCRIPTOR.enum_types_by_name.items()
}
OURS = {
    kind
    for package in (inferd.core, inferd.plugin, inferd.sandbox)
    for module in modules(package)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Enum) and kind.__module__ == module.__name__
}


@pytest.mark.parametrize("name", sorted(WIRE.keys() - {"ErrorReason"}))
def test_enum(name: str) -> None:
    """Every enum on the wire but the reasons of errors is one of ours, with the same names and numbers."""
    (kind,) = (kind for kind in OURS if kind.__name__ == name)
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() + "_"
    ours = {prefix + member.name: member.value for member in kind} | {prefix + "UNSPECIFIED": 0}
    assert ours == WIRE[name]


def test_error_reasons() -> None:
    """Every reason on the wire has one class of error, whose gRPC code is the one that its comment promises."""
    text = (ROOT / "protos/inferd_api/v1/errors.proto").read_text()
    promised = re.findall(r"\(([A-Z_]+)(?:; [^)]*)?\)\.[^=]*?ERROR_REASON_(\w+) = \d+;", text)
    assert {reason for _, reason in promised} | {"UNSPECIFIED"} == {
        name.removeprefix("ERROR_REASON_")
        for name in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - not a mapping
    }
    assert {reason: code for code, reason in promised} == {reason: kind.code for reason, kind in BY_REASON.items()}
    assert {kind.code for kind in BY_REASON.values()} <= {code.name for code in grpc.StatusCode}


def buf(command: str, image: Path, *options: object) -> None:
    call = [str(part) for part in (BUF, command, image, *options)]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
