"""`make sanitize`: tests of the native library, built with sanitizers, in Python with their runtime preloaded.

    python tests/fuzz/sanitize.py address,undefined [TESTS …]
    python tests/fuzz/sanitize.py thread [TESTS …]

The library is built into a copy of the package in build/, which comes first on the path. The first report of a
sanitizer ends the run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugins" / "inferd_cpu"
TESTS = (
    *("tests/unit/test_native_linear.py", "tests/unit/test_native_session.py"),
    *("tests/property/test_gguf_fuzz.py", "tests/contract/test_cpu.py"),
)
WITH_TORCH = ("tests/unit/test_native_encoders.py",)
"""Tests that ask PyTorch, whose threads and locks the thread sanitizer does not know."""
LEFT_OUT = "not memory and not measured"  # what weighs the process: sanitizers take memory, too
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until it ends
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    "OPENBLAS_NUM_THREADS": "1",  # its threads are not instrumented
}


def main() -> None:
    """Build, then become pytest."""
    sanitizers, options = sys.argv[1], sys.argv[2:]
    tests = (
        ()
        if any(not option.startswith("-") for option in options)
        else TESTS + (WITH_TORCH if "thread" not in sanitizers else ())
    )
    folder = ROOT / "build" / sanitizers.replace(",", "-")
    copy = folder / PACKAGE.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("native", "_native.*", "__pycache__"))
    build: list[str | Path] = [
        sys.executable,
        PACKAGE / "native" / "build.py",
        "--sanitize",
        sanitizers,
        "--out",
        copy / "_native.so",
    ]
    subprocess.run(build, check=True)
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": " ".join(_find(RUNTIMES[name]) for name in sanitizers.split(",")),
        "PYTHONPATH": str(folder),
    }
    arguments = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-o", "timeout=1200"]
    arguments += ["-k", LEFT_OUT, *options, *tests]
    os.chdir(ROOT)
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - it takes the place of this process


def _find(runtime: str) -> str:
    """The path of a sanitizer's runtime, from the compiler that it belongs to."""
    compiler = os.environ.get("CXX", "c++")
    found = subprocess.run([compiler, f"-print-file-name={runtime}"], check=True, capture_output=True, text=True)
    if "/" not in found.stdout:  # what it does not find it gives back
        sys.exit(
            f"{compiler} has no {runtime}; with Debian's g++ it comes along, with clang name it: make sanitize CXX=g++"
        )
    return found.stdout.strip()


if __name__ == "__main__":
    main()
