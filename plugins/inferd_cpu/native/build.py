"""Builds the native library of the `cpu` backend, with the standard library and a C++17 compiler alone.

    python plugins/inferd_cpu/native/build.py                      # -> plugins/inferd_cpu/_native.so
    python …/build.py --sanitize address,undefined --out build/asan/_native.so
    python …/build.py --program check_linear --out build/check_linear
    python …/build.py --target aarch64 --program check_linear --out build/check_linear.aarch64

The library is made of all `*.cpp` of this folder but the programs, `check_*.cpp`. A source with a line
`// isa: plain avx2 avx512 amx neon` (any of them) is compiled once for each instruction set named there that belongs to
the target, with that set's flags, `-DISA=avx2` for its namespace and `-DISA_AVX2` for its conditions. All sources see
`-DHAVE_AVX2` and so on for the sets that were built. A set whose flags the compiler does not know is left out and
named in the result. What is newer than its sources, headers and command is not compiled again.

Beside the library lies `_native.txt` where there is something to tell: a line that says what is missing, and a line
that says what mends it. `inferd doctor` shows them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent
LIBRARY = SOURCES.parent / "_native.so"
ROOT = SOURCES.parents[2]
OBJECTS = ROOT / "build" / "native"
COMPILERS = ("c++", "g++", "clang++")
COMPILER_FIX = "a C++17 compiler (Debian: apt install g++), then install inferd again"
SETS_FIX = "g++ 11 or newer, then install inferd again"

# Contraction is off: a fused multiply-add happens where the source says so, and the same on every path.
FLAGS = ("-std=c++17", "-O3", "-g1", "-fPIC", "-pthread", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno")
WARNINGS = ("-Wall", "-Wextra", "-Wno-maybe-uninitialized")  # g++ 12 reports its own intrinsics
CHECK_FLAGS = ("-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1")  # more takes minutes to compile
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512")
AMX = (*AVX512, "-mavx512bf16", "-mavx512vbmi", "-mamx-tile", "-mamx-bf16", "-mamx-int8")
INSTRUCTION_SETS = {
    "x86_64": {"plain": (), "avx2": AVX2, "avx512": AVX512, "amx": AMX},
    "aarch64": {"plain": (), "neon": ("-march=armv8.2-a+dotprod+fp16",)},
}
MARK = re.compile(r"^// isa:((?: \w+)+)\s*$", re.MULTILINE)


class BuildError(Exception):
    """The library could not be built.

    Attributes:
        fix: What to do about it, as a sentence.
    """

    def __init__(self, why: str, *, fix: str = COMPILER_FIX) -> None:
        super().__init__(why)
        self.fix = fix


class Result(NamedTuple):
    """What was built: the file, the instruction sets in it, and those that this compiler does not know."""

    path: Path
    built: tuple[str, ...]
    left_out: tuple[str, ...]


class Object(NamedTuple):
    """One compilation: a source, the flags of its instruction set, and the file that comes out."""

    source: Path
    flags: tuple[str, ...]
    path: Path


def build(*, out: Path = LIBRARY, sanitize: str = "", target: str = "", program: str = "") -> Result:
    """Compile and link; returns what is in `out`.

    Args:
        out: The file to write; it is replaced in one step.
        sanitize: Sanitizers as `-fsanitize` takes them; "" for none.
        target: Processor to compile for with a cross compiler; "" for this one.
        program: Name of a `check_*.cpp` to link with the library's objects, instead of the library.

    Raises:
        BuildError: No compiler, or it failed; the message holds its last lines.
    """
    compiler = find_compiler(target)
    checks = (f"-fsanitize={sanitize}", *CHECK_FLAGS) if sanitize else ()
    common = (*FLAGS, *WARNINGS, *checks, f"-ffile-prefix-map={ROOT}=.")  # the same bytes wherever the tree is
    known, left_out = _instruction_sets(compiler, target or _read_processor(compiler))
    common += tuple(f"-DHAVE_{name.upper()}" for name in known)
    folder = OBJECTS / _digest(*compiler, _run((*compiler, "--version")), *common)
    objects = _plan(known, folder, program)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda one: _compile(compiler, common, one), objects))
    _link(compiler, common, [one.path for one in objects], out, kind=_link_kind(program, target))
    return Result(out, tuple(known), left_out)


def find_compiler(target: str = "") -> tuple[str, ...]:
    """The command of a compiler: `CXX` (split like a shell line), else the first of the usual names.

    Raises:
        BuildError: None is there.
    """
    if target:
        names: tuple[str, ...] = (f"{target}-linux-gnu-g++",)
    elif os.environ.get("CXX"):
        names = (os.environ["CXX"],)
    else:
        names = COMPILERS
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return tuple(command)
    raise BuildError(f"there is no C++ compiler ({', '.join(names)})")


def _read_processor(compiler: tuple[str, ...]) -> str:
    return _run((*compiler, "-dumpmachine")).partition("-")[0].strip().replace("amd64", "x86_64")


def _instruction_sets(compiler: tuple[str, ...], processor: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The flags of each set of the processor that the compiler knows, and the names of the others."""
    known: dict[str, tuple[str, ...]] = {}
    left_out = []
    for name, flags in INSTRUCTION_SETS.get(processor, {"plain": ()}).items():
        try:
            _run((*compiler, *flags, "-fsyntax-only", "-x", "c++", os.devnull))
            known[name] = flags
        except BuildError:
            left_out.append(name)
    if "plain" not in known:
        raise BuildError(f"{' '.join(compiler)} cannot compile an empty C++ file")
    return known, tuple(left_out)


def _plan(known: dict[str, tuple[str, ...]], folder: Path, program: str) -> list[Object]:
    """Every compilation that the library or the program needs."""
    sources = [path for path in sorted(SOURCES.glob("*.cpp")) if not path.name.startswith("check_")]
    if not sources:
        raise BuildError(f"{SOURCES} holds no C++ sources", fix="an install from a complete source tree")
    if program:
        sources.append(SOURCES / f"{program}.cpp")
    objects = []
    for source in sources:
        mark = MARK.search(source.read_text())
        if mark is None:
            objects.append(Object(source, (), folder / f"{source.stem}.o"))
            continue
        for name in (name for name in mark[1].split() if name in known):
            flags = (*known[name], f"-DISA={name}", f"-DISA_{name.upper()}")
            objects.append(Object(source, flags, folder / f"{source.stem}.{name}.o"))
    return objects


def _compile(compiler: tuple[str, ...], common: tuple[str, ...], one: Object) -> None:
    if _is_fresh(one):
        return
    with tempfile.TemporaryDirectory(
        dir=one.path.parent
    ) as folder:  # of its own: another build may run beside this one
        made, rules = Path(folder) / one.path.name, Path(folder) / "rules.d"
        begun_ns = time.time_ns()
        _run((*compiler, *common, *one.flags, "-MMD", "-MF", str(rules), "-c", str(one.source), "-o", str(made)))
        os.utime(made, ns=(begun_ns, begun_ns))  # a source that changed meanwhile is newer
        rules.replace(one.path.with_suffix(".d"))
        made.replace(one.path)


def _is_fresh(one: Object) -> bool:
    """Whether the object is newer than all that it was made of, by the rules that the compiler wrote."""
    try:
        made = one.path.stat().st_mtime_ns
        text = one.path.with_suffix(".d").read_text().partition(":")[2].replace("\\\n", " ")
        needed = [Path(part.replace("\\ ", " ")) for part in re.split(r"(?<!\\)\s+", text.strip())]
        return all(path.stat().st_mtime_ns < made for path in (*needed, Path(__file__)))
    except OSError:
        return False


def _link_kind(program: str, target: str) -> tuple[str, ...]:
    if not program:
        return ("-shared",)
    return ("-static",) if target else ()  # a cross-built program runs under an emulator without its system's libraries


def _link(
    compiler: tuple[str, ...], common: tuple[str, ...], objects: list[Path], out: Path, *, kind: tuple[str, ...]
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".link-") as folder:
        made = Path(folder) / out.name
        _run((*compiler, *common, *kind, *map(str, objects), "-o", str(made)))
        made.replace(out)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _run(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        sys.stderr.write(done.stderr)  # warnings
        return done.stdout
    sys.stderr.write(done.stderr)
    lines = done.stderr.splitlines() or ["it said nothing"]
    cause = next((line for line in lines if "error" in line), lines[-1])
    raise BuildError(f"{Path(command[0]).name} ended with {done.returncode}: {cause}")


def record(out: Path, why: str = "", *, fix: str = "") -> None:
    """Write beside the library `out` what is missing from it, or that nothing is."""
    note = out.with_suffix(".txt")
    if why:
        note.write_text(f"{why}\n{fix}\n")
    else:
        note.unlink(missing_ok=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=LIBRARY)
    parser.add_argument("--sanitize", default="", help="sanitizers, for example address,undefined")
    parser.add_argument("--target", default="", help="processor of a cross compiler, for example aarch64")
    parser.add_argument("--program", default="", help="link this check_*.cpp instead of the library")
    options = parser.parse_args()
    try:
        result = build(**vars(options))
    except BuildError as error:
        if not options.program:
            record(options.out, str(error), fix=error.fix)
        sys.exit(f"{error}\nmend it with: {error.fix}")
    missing = f"without {', '.join(result.left_out)}: the compiler is too old for them" if result.left_out else ""
    if not options.program:
        record(result.path, missing, fix=SETS_FIX)
    sys.stdout.write(f"{result.path} ({', '.join(result.built)}{', ' * bool(missing)}{missing})\n")


if __name__ == "__main__":
    main()
