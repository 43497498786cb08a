"""The proto files as somebody else has them: copied, with nothing of this project beside them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
BUF = Path(sys.executable).with_name("buf")
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proto files of the wire API and what lies beside them, in an empty folder."""
    folder = tmp_path_factory.mktemp("alone")
    for path in PROTOS.rglob("*.proto"):
        target = folder / path.relative_to(PROTOS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def run(folder: Path, *command: str) -> None:
    """Run a tool that finds nothing but its own files and the folder."""
    done = subprocess.run(
        command, cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sources(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in (folder / "inferd_api" / "v1").glob("*.proto"))


def test_protoc_builds_them(alone: Path) -> None:
    """The compiler of protobuf makes code of the wire API with the copied folder as its only include path."""
    run(alone, sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", *sources(alone))
    made = {path.name for path in (alone / "inferd_api" / "v1").glob("*_pb2.py")}
    assert made == {Path(name).stem + "_pb2.py" for name in sources(alone)}


def test_buf_builds_them(alone: Path) -> None:
    """A build by buf takes the copied folder alone, without a network and without settings."""
    run(alone, str(BUF), "build", "-o", "image.binpb")
    files = FileDescriptorSet.FromString((alone / "image.binpb").read_bytes()).file
    assert {file.name for file in files} >= set(sources(alone))


def test_buf_lints_the_tree() -> None:
    """The tree as it is passes the lint of buf, with its own settings."""
    run(ROOT, str(BUF), "lint")


@pytest.mark.parametrize("theirs", [status_pb2, field_behavior_pb2], ids=["status", "field_behavior"])
def test_what_is_googles_is_as_theirs(alone: Path, theirs: object) -> None:
    """What lies beside the files in place of googleapis says the same as googleapis: names, numbers, types, options."""
    run(alone, str(BUF), "build", "-o", "image.binpb")
    wanted = FileDescriptorProto()
    theirs.DESCRIPTOR.CopyToProto(wanted)  # type: ignore[attr-defined]
    files = FileDescriptorSet.FromString((alone / "image.binpb").read_bytes()).file
    (ours,) = (file for file in files if file.name == wanted.name)
    for field in (*(field for message in ours.message_type for field in message.field), *ours.extension):
        field.ClearField("json_name")  # which only one of the two compilers writes
    for part in ("package", "dependency", "message_type", "enum_type", "extension", "syntax"):
        assert getattr(ours, part) == getattr(wanted, part), part
    assert (ours.options.go_package, ours.options.java_package) == (
        wanted.options.go_package,
        wanted.options.java_package,
    )


def test_what_is_told_of_errors_is_as_googles(alone: Path) -> None:
    """The messages by which clients in other languages read errors are those of googleapis."""
    run(alone, str(BUF), "build", "-o", "image.binpb")
    files = FileDescriptorSet.FromString((alone / "image.binpb").read_bytes()).file
    (ours,) = (file for file in files if file.name == error_details_pb2.DESCRIPTOR.name)
    theirs = FileDescriptorProto()
    error_details_pb2.DESCRIPTOR.CopyToProto(theirs)
    wanted = {message.name: message for message in theirs.message_type}
    for message in ours.message_type:
        fields = [*message.field, *(field for nested in message.nested_type for field in nested.field)]
        for field in fields:
            field.ClearField("json_name")  # as above
        assert message == wanted[message.name]
    assert ours.options.java_package == theirs.options.java_package


def test_other_languages_are_told_their_packages() -> None:
    """Every file of the wire API names its package for Go and for Java."""
    for path in (PROTOS / "inferd_api" / "v1").glob("*.proto"):
        text = path.read_text()
        assert 'option go_package = "inferd_api/v1;inferdv1";' in text, path
        assert 'option java_package = "inferd.v1";' in text, path
        assert "option java_multiple_files = true;" in text, path


def test_comments_and_marks_agree() -> None:
    """A field is marked REQUIRED if its comment says so, and OUTPUT_ONLY likewise, and not else."""
    pattern = re.compile(r"((?: *//.*\n)+) *(?:optional |repeated )?(?:map<[^>]*>|[\w.]+) (\w+) = \d+ \[([^\]]*)\];")
    seen = 0
    for path in (PROTOS / "inferd_api" / "v1").glob("*.proto"):
        for comment, name, marks in pattern.findall(path.read_text()):
            assert ("= REQUIRED" in marks) == ("Required." in comment), f"{path.name}: {name}"
            assert ("= OUTPUT_ONLY" in marks) == ("Output only." in comment), f"{path.name}: {name}"
            seen += 1
    assert seen
