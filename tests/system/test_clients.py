"""Each client under `clients`, built by the tools of its language, against a real kernel.

What its own tests prove is the same in each language: it finds the kernel of its user, logs in with a key and over
TLS, streams exactly what there is, cancels, goes on behind the last event when its connection breaks or its kernel is
killed, holds a lease beyond its TTL, is told of one that it lost, and gets errors with the kernel's reason.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet
from client_ground import Ground, ground
from client_languages import CLIENTS, LANGUAGES, PYTHON, ROOT, Language

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

REQUIRED = bool(os.environ.pop("INFERD_REQUIRE_CLIENTS", ""))  # kernels refuse variables that they do not know
BUILD_S, TEST_S = 2400.0, 600.0  # a compiler of C++ takes its time, on a machine that is busy
LONGEST_EXAMPLE = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> AsyncIterator[Ground]:
    """A kernel with the fake models, and with SmolLM2."""
    async with ground(tmp_path_factory.mktemp("clients"), smollm2=smollm2) as made:
        yield made


async def run(language: Language, command: tuple[str, ...], environment: dict[str, str], limit_s: float) -> str:
    """What a command says on its standard output; its end within the limit and in order is asserted."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=language.folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # so that all that it starts can be ended with it
    )
    try:
        said, complaints = await asyncio.wait_for(process.communicate(), limit_s)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        said, complaints = await process.communicate()
        pytest.fail(f"{command} took over {limit_s} s\n{said.decode()}\n{complaints.decode()}")
    assert process.returncode == 0, f"{command}\n{said.decode()}\n{complaints.decode()}"
    return said.decode()


def test_the_wheel_of_python_is_part_of_the_kernels(tmp_path: Path) -> None:
    """The Python client's wheel has the client and the wire, with types, as the kernel's has them, and nothing else."""
    build = (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    subprocess.run([*build, str(PYTHON.folder)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        held = {name: archive.read(name) for name in names}
    parts = {"inferd_client": ROOT / "clients" / "python", "inferd_api": ROOT / "protos"}
    wanted = [
        path.relative_to(parent)
        for name, parent in parts.items()
        for path in (parent / name).rglob("*")
        if path.suffix in {".py", ".pyi", ".typed"} and not {"worker", "agent", "inference"} & {*path.parts}
    ]
    assert {name for name in names if not name.endswith(".proto")} == {str(path) for path in wanted}
    assert all(content == (parts[Path(name).parts[0]] / name).read_bytes() for name, content in held.items())


def languages(wanted: Callable[[Language], bool] = lambda _: True) -> list[ParameterSet]:
    """Those that are wanted; those whose tools are lacking are skipped, where they are not required."""
    skip = pytest.mark.skipif
    return [
        pytest.param(each, id=each.name, marks=skip(bool(each.lacking) and not REQUIRED, reason=each.lacking or "none"))
        for each in LANGUAGES
        if wanted(each)
    ]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("language", languages())
async def test_a_client_does_what_all_do(language: Language, kernel: Ground) -> None:
    """A client is built, passes the tests of its language, and its example of a page streams SmolLM2's answer."""
    assert not language.lacking, language.lacking
    for command in language.build:
        await run(language, command, dict(os.environ), BUILD_S)
    print(await run(language, language.test, kernel.environment, TEST_S))  # noqa: T201 - shown where it fails, or by -s
    example = (*language.example, "smollm2", "Name the capital of France.")
    assert "Paris" in await run(language, example, kernel.environment, TEST_S)


NOTE = "The kernel keeps its tasks. A durable task outlives the kernel. Oaks are trees."
PLACE = re.compile(r"\[(\S+) (\d+)-(\d+)\] (.+)")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("language", languages(lambda each: bool(each.answers)))
async def test_a_client_has_the_nouns_that_came_since(language: Language, kernel: Ground, tmp_path: Path) -> None:
    """Its examples call a function, fill an index, ask it with citations that are real, and watch a training."""
    assert not language.lacking, language.lacking
    for command in language.build:
        await run(language, command, dict(os.environ), BUILD_S)
    note = tmp_path / "note.txt"
    note.write_text(f"{NOTE}   \n", encoding="utf-8")
    asked = (*language.answers, f"notes-{language.name}", "smollm2", "What outlives the kernel?", str(note))
    said = await run(language, asked, kernel.environment, TEST_S)
    found = PLACE.findall(said)
    assert all(name == str(note) and NOTE[int(start) : int(end)] == quote for name, start, end, quote in found), said
    assert said.strip()
    watched = await run(language, (*language.watching, await kernel.train(language.name)), kernel.environment, TEST_S)
    assert "SUCCEEDED" in watched
    assert "version 1" in watched


def test_each_example_is_short() -> None:
    """No example of a language is longer than a page."""
    lengths = {
        str(path.relative_to(CLIENTS)): len(path.read_text().splitlines())
        for language in LANGUAGES
        for path in (language.folder / "example").rglob("*.*")
        if path.suffix in {".py", ".ts", ".go", ".java", ".cc"}
    }
    assert len(lengths) > len(LANGUAGES)
    assert not {name: length for name, length in lengths.items() if length >= LONGEST_EXAMPLE}
