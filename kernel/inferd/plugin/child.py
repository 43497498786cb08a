"""Running the child process that probes one plugin, and ending it with all that it started."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from inferd.plugin.cores import forbid_cores
from inferd.plugin.patience import patience

DOCUMENT_BYTES = 1 << 20  # most that a child may answer
STDERR_BYTES = 1 << 16  # how much is kept of the end of its standard error
TRACE_S = 1.0  # how long a process that hangs may take to write where it does
SECRET_WORDS = frozenset(
    {"CREDENTIAL", "CREDENTIALS", "HEADERS", "KEY", "PASSWD", "PASSWORD", "PGPASSWORD", "SECRET", "TOKEN"}
)
"""What names of variables with secrets have between their underscores."""
OURS = "INFERD_"  # the store with its password, credentials of clients, settings: nothing that a backend would need
WORKER_NAMES: Final = frozenset(
    {"CC", "CONDA_PREFIX", "CXX", "GLIBC_TUNABLES", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TERM", "TMP"}
    | {"TMPDIR", "TZ", "TZDIR", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME"}
)
"""Variables that say how a system is set up."""
WORKER_FAMILIES: Final = frozenset(
    {"ACCELERATE", "AMD", "ARROW", "ASAN", "COVERAGE", "CUBLAS", "CUBLASLT", "CUDA", "CUDNN", "DNNL", "FLASHINFER"}
    | {"GGML", "GLOO", "GOMP", "GPU", "HF", "HIP", "HIPBLASLT", "HSA", "KMP", "LC", "LD", "LSAN", "MALLOC", "MIOPEN"}
    | {"MKL", "MPS", "MSAN", "NCCL", "NUMBA", "NUMEXPR", "NUMPY", "NVIDIA", "NVTE", "OMP", "ONEAPI", "ONEDNN"}
    | {"OPENBLAS", "ORT", "PYTORCH", "RAYON", "RCCL", "ROCBLAS", "ROCM", "ROCR", "SYCL"}
    | {"TF", "TOKENIZERS", "TORCH", "TORCHINDUCTOR", "TRANSFORMERS", "TRITON", "TSAN", "UBSAN", "UR", "VLLM", "XLA"}
    | {"JAX", "ZE"}
)
"""What names of variables of processors, threads and libraries begin with, before their first underscore."""
ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For a process that looks at a plugin and computes nothing: threads that wait for work take time from all others."""
FATAL = "Fatal Python error: "  # how faulthandler begins; see docs.python.org/3/library/faulthandler.html
FRAME = re.compile(r"^Current thread [^\n]*\n +(File \"[^\n]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it.
        document: What it answered, the last `DOCUMENT_BYTES` of it.
        stderr: The last `STDERR_BYTES` of its standard error.
        limit_s: The time that it took longer than, and was killed for; None when it ended by itself.
    """

    status: int
    document: bytes
    stderr: bytes
    limit_s: float | None = None

    @property
    def text(self) -> str:
        """What it wrote to its standard error."""
        return self.stderr.decode(errors="replace").strip()

    def __str__(self) -> str:
        """The ending of a child that gave no document of discovery, with where it was or its last line."""
        if self.limit_s is not None:
            how = f"took longer than {self.limit_s:g} s and was killed"
        elif self.status < 0:
            how = f"ended by signal {-self.status} ({signal.strsignal(-self.status)})"
        elif self.document:
            how = "answered with something that is no document of discovery"
        else:
            how = f"exited with status {self.status} before it answered"
        if frame := last_frame(self.text):
            return f"{how}; it was at {frame}"
        lines = self.text.splitlines()
        return f"{how}; its last line: {lines[-1].strip()}" if lines else how


def last_frame(text: str) -> str:
    """Where in its program a process was that a signal ended, by what faulthandler wrote; "" when it wrote nothing."""
    _, fatal, trace = text.rpartition(FATAL)
    found = FRAME.search(trace) if fatal else None
    return "" if found is None else found[1].strip()


async def abort(process: asyncio.subprocess.Process) -> None:
    """Have a process end that hangs, and write before where each of its threads is; it leaves no core behind.

    One that enabled faulthandler, that is. This takes at most `TRACE_S`; should it not be gone then, kill it.
    """
    with suppress(OSError):
        forbid_cores(process.pid)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGABRT)
    with suppress(TimeoutError):
        async with asyncio.timeout(TRACE_S):
            await process.wait()


def environment() -> dict[str, str]:
    """The variables that processes with backends are given: none of the kernel's own, and none with a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(OURS) and not SECRET_WORDS & set(name.upper().split("_"))
    }


def worker_environment(also: Collection[str] = ()) -> dict[str, str]:
    """The variables that workers are given: those of a known list, for what they run may read them and tell of it.

    Names do not say everywhere that there is a secret inside (DATABASE_URL), and what a process was started with stays
    in `/proc/self/environ` whatever it takes away later.

    Args:
        also: Names of others that they are to have, `workers.variables`.
    """
    return {name: value for name, value in environment().items() if name in also or _is_known(name)}


def _is_known(name: str) -> bool:
    return name in WORKER_NAMES or name.startswith("PYTHON") or name.partition("_")[0] in WORKER_FAMILIES


async def run(module: str, *, limit_s: float) -> Ending:
    """Run `inferd.plugin.probe` for a plugin to its end, or kill it after a time. Cancelling this kills it, too."""
    return await run_program("inferd.plugin.probe", module, limit_s=limit_s)


async def run_program(program: str, module: str, *, limit_s: float) -> Ending:
    """As `run`, with another module of ours that looks at the plugin."""
    limit: float | None = None
    async with Pipe(DOCUMENT_BYTES) as answer, Pipe(STDERR_BYTES) as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", program, module, str(answer.write_end), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr.write_end,
            pass_fds=(answer.write_end,),
            env={**environment(), **ONE_THREAD},
            start_new_session=True,
        )
        try:
            answer.close_write_end()
            stderr.close_write_end()
            try:
                async with patience(limit_s):
                    await process.wait()
            except TimeoutError:
                limit = limit_s
                await abort(process)
        finally:
            # Not only when it is cancelled: what the plugin left behind would hold the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = await process.wait()
        return Ending(status=status, document=await answer.read(), stderr=await stderr.read(), limit_s=limit)


class Pipe:
    """A pipe from a child. It is always read, so that the child never waits; the last `keep_bytes` are kept."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept = bytearray()
        self._ended = asyncio.Event()
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._read_end, self._read_more)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self.close_write_end()

    def close_write_end(self) -> None:
        """Close our copy of the child's end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def read(self) -> bytes:
        """What was kept, once all copies of the child's end are closed, or soon: who left its group may hold one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TRACE_S):
                await self._ended.wait()
        return bytes(self._kept)

    def _read_more(self) -> None:
        data = os.read(self._read_end, 1 << 16)
        self._kept += data
        del self._kept[: -self._keep_bytes]
        if not data:
            asyncio.get_running_loop().remove_reader(self._read_end)
            self._ended.set()
