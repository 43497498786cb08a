"""The generated protobuf code, in one place for `make stubs`, `make lint` and the tests.

python tests/arch/stubs.py --write          regenerate the committed code
python tests/arch/stubs.py --image PATH     write the wire API as a descriptor set, for `buf lint` and `buf breaking`
python tests/arch/stubs.py --baseline       make the present wire API the one that later changes are compared with
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
BASELINE = PROTOS / "baseline.binpb"
ENDINGS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(into: Path) -> None:
    """Write the Python code of all proto files, laid out as under `protos`."""
    tools = Path(sys.executable).parent
    _run_protoc(
        *(f"--plugin={tools / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(
            f"--{output}{into}"
            for output in ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")
        ),
    )


def write_image(path: Path, *, source_info: bool = True) -> None:
    """Write all proto files and what they import as one descriptor set; comments are part of the source info."""
    _run_protoc(f"--descriptor_set_out={path}", "--include_imports", *(["--include_source_info"] * source_info))


def generated(folder: Path) -> dict[str, bytes]:
    """The generated files under a folder, by relative path."""
    found = (p for p in sorted(folder.rglob("*")) if p.name.endswith(ENDINGS))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def _run_protoc(*options: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *options, *_sources()]
    subprocess.run(command, check=True, cwd=PROTOS)


def _sources() -> Iterable[str]:
    return sorted(str(p.relative_to(PROTOS)) for p in (PROTOS / "inferd_api").rglob("*.proto"))


def main() -> None:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(description="generated protobuf code")
    options.add_argument("--write", action="store_true", help="regenerate the committed code")
    options.add_argument("--image", type=Path, metavar="PATH", help="write the wire API as a descriptor set")
    options.add_argument("--baseline", action="store_true", help=f"write {BASELINE.relative_to(ROOT)}")
    asked = options.parse_args()
    if asked.write:
        generate(PROTOS)
    if asked.image:
        write_image(asked.image.absolute())
    if asked.baseline:
        write_image(BASELINE, source_info=False)


if __name__ == "__main__":
    main()
