"""The phases of `gpu_hour.py`, in a process that is told by lines which of them to run, and until when."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
HERE = Path(__file__).parent
LACKING = frozenset(
    {
        *("ahocorasick", "apsw", "confusable_homoglyphs", "gguf", "grpc_health", "grpc_reflection", "grpc_status"),
        "jsonschema_rs",
        *("llguidance", "platformdirs", "pydantic", "pydantic_settings", "pytest_asyncio", "re2", "structlog"),
    }
)
PACKAGES = ("torch", "triton", "transformers", "accelerate", "safetensors", "numpy", "tokenizers", "pytest")


@dataclass(slots=True)
class Run:
    """What a phase is told.

    Attributes:
        dry: With tiny networks on the processor.
        deadline: Of the phase, as `time.monotonic` tells it: what it has not begun by then is left out.
    """

    dry: bool
    deadline: float

    @property
    def device(self) -> str:
        """Where to compute."""
        return "cpu" if self.dry else "cuda:0"

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def figure(name: str, value: Any, unit: str = "", detail: str = "") -> Figure:
    """A line."""
    return {"name": name, "value": value, "unit": unit, **({"detail": detail} if detail else {})}


def versions(run: Run) -> Iterator[Figure]:
    """What computes here."""
    import torch

    yield figure("python", platform.python_version())
    for name in PACKAGES:
        try:
            yield figure(name, version(name))
        except PackageNotFoundError:
            yield figure(name, "none")
    if run.dry:
        return
    card = torch.cuda.get_device_properties(0)
    yield figure("card", card.name, detail=f"{card.multi_processor_count} multiprocessors, uuid {card.uuid}")
    yield figure("card.capability", f"{card.major}.{card.minor}")
    yield figure("card.memory", card.total_memory / 2**30, "GiB")
    yield figure("cuda", str(torch.version.cuda))
    from inferd_torch.devices import NVIDIA_DRIVERS

    yield figure("driver.signs", ",".join(str(sign) for sign in NVIDIA_DRIVERS if sign.exists()) or "none")


def limits(run: Run) -> Iterator[Figure]:
    """What the device can do at most, measured with what torch has."""
    from gpu_models import measure_limits

    for name, (value, unit) in measure_limits(run).items():
        yield figure(f"limit.{name}", value, unit)


def twins(run: Run) -> Iterator[Figure]:
    """Triton kernels beside what states them in torch; here without a device only what states them is imported."""
    import torch

    if run.dry:
        yield figure("twins", "skipped", detail="kernels are compared by the interpreter in tests/unit")
        return
    from kernel_twins import LARGE, compare

    for name, kind, difference in compare(run.device, (torch.bfloat16, torch.float32), LARGE):
        most = 1e-3 if kind == "float32" else 2e-2
        yield figure(f"twins.{name}.{kind}", difference, "of the largest number")
        if difference > most:
            yield {"event": "failed", "detail": f"{name} in {kind} is {difference:.3g} from its twin, at most {most}"}


def greedy(run: Run) -> Iterator[Figure]:
    """Greedy tokens beside those of transformers, for shapes of four families in float32."""
    from gpu_models import compare_greedy

    for name in ("llama", "qwen3", *(() if run.dry else ("gemma3", "qwen3_moe", "gemma2", "gpt_oss"))):
        same, margin = compare_greedy(name, run)
        yield figure(f"greedy.{name}", same, "of tokens", f"least margin where they part {margin:.2g}")


def packed(run: Run) -> Iterator[Figure]:
    """Folders of weights of 4 bits, and their products beside the limits of the device."""
    from gpu_packed import compare_folders, measure_products

    yield from compare_folders(run)
    yield from measure_products(run)


def replay(run: Run) -> Iterator[Figure]:
    """Recorded steps beside the same steps that are computed one by one."""
    from gpu_models import compare_filled, compare_replay

    for count in (1, 3) if run.dry else (1, 2, 3, 7, 17, 64):
        difference, same = compare_replay(count, run)
        yield figure(f"replay.b{count}", difference, "largest difference of logits", f"{same:.0%} of drawn tokens")
        if same < 1 and difference == 0:
            yield {"event": "failed", "detail": f"a replay of {count} rows draws other tokens from the same logits"}
    for tokens in (40,) if run.dry else (5, 40, 64):
        yield figure(f"replay.prompt{tokens}", compare_filled(tokens, run), "largest difference of logits")


def draws(run: Run) -> Iterator[Figure]:
    """Choosing tokens from the logits of a large vocabulary."""
    from gpu_models import measure_draws

    for name, value, unit in measure_draws(run):
        yield figure(f"draws.{name}", value, unit)


def bad_rows(run: Run) -> Iterator[Figure]:
    """Rows that are not finite, with all that there is to draw by: no token, and the device lives."""
    from gpu_models import draw_bad_rows

    yield figure("bad_rows", draw_bad_rows(run), "of 3 rows told; 3 is right")


def lost_device(run: Run) -> Iterator[Figure]:
    """A step whose device fails ends its process with the code that says so."""
    from inferd_torch.faults import EXIT_CODE

    code, told = lose_forked(run) if run.dry else lose_apart(run)
    if code != EXIT_CODE or "the device has failed" not in told:
        yield {"event": "failed", "detail": f"exit code {code}, and it must be {EXIT_CODE}: {told[-300:]}"}
    yield figure("lost_device", code, "exit code")


def lose_apart(run: Run) -> tuple[int, str]:
    """The exit code and the last words of a process whose device fails."""
    words = [sys.executable, HERE / "gpu_models.py", "lose", run.device]
    done = subprocess.run(words, capture_output=True, text=True, timeout=run.left_s, check=False)
    return done.returncode, done.stderr


def lose_forked(run: Run) -> tuple[int, str]:
    """The same of a copy of this process, which a processor allows: it need not import all anew."""
    from gpu_models import lose

    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            try:
                lose(run.device)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read().decode(errors="replace")


def contract(run: Run) -> Iterator[Figure]:
    """The tests of this folder, `BackendContract` among them."""
    del run
    import pytest

    class Count:
        """Counts how tests end."""

        def __init__(self) -> None:
            self.ends = dict.fromkeys(("passed", "failed", "skipped"), 0)
            self.failed: list[str] = []

        def pytest_runtest_logreport(self, report: Any) -> None:
            """One of three reports of a test."""
            if report.when == "call" or report.outcome != "passed":
                self.ends[report.outcome] += 1
                if report.failed:
                    self.failed.append(f"{report.nodeid.rpartition('/')[2]}: {str(report.longrepr)[-200:]}")

    count = Count()
    options = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), "--confcutdir", str(HERE), "-q", "-x"]
    with redirect_stdout(sys.stderr):
        code = pytest.main([*options[:-1], "--no-header", "--tb=short", str(HERE)], plugins=[count])
    for outcome, number in count.ends.items():
        yield figure(f"contract.{outcome}", number, "tests", f"exit code {int(code)}")
    for failed in count.failed[:20]:
        yield {"event": "failed", "detail": failed}


def shape_1b(run: Run) -> Iterator[Figure]:
    """A network of the shape of Llama 3.2 1B."""
    from gpu_figures import measure_shape

    yield from measure_shape("1b", run)


def shape_8b(run: Run) -> Iterator[Figure]:
    """A network of the shape of Llama 3.1 8B."""
    from gpu_figures import measure_shape

    yield from measure_shape("8b", run)


def baselines_1b(run: Run) -> Iterator[Figure]:
    """What else can be had for the same weights."""
    from gpu_baselines import measure_baselines

    yield from measure_baselines("1b", run)


def baselines_8b(run: Run) -> Iterator[Figure]:
    """The same of the larger one."""
    from gpu_baselines import measure_baselines

    yield from measure_baselines("8b", run)


PHASES: dict[str, Callable[[Run], Iterator[Figure]]] = {
    each.__name__: each
    for each in (
        *(versions, limits, twins, greedy, packed, replay, draws, bad_rows, lost_device, contract),
        *(shape_1b, shape_8b, baselines_1b, baselines_8b),
    )
}


class Bare:
    """Refuses what a machine has not that nothing was installed on: what works without it works there."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Nothing, and no other finder is asked.

        Raises:
            ModuleNotFoundError: It is not on such a machine.
        """
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"{name} is not on a bare machine", name=name)


def main() -> None:
    """Phases by name and deadline, a line of the input for each, until it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry", action="store_true")
    dry = parser.parse_args().dry
    if dry:
        sys.meta_path.insert(0, Bare())
    out = os.fdopen(os.dup(1), "w")  # libraries that print do so elsewhere
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        name, deadline = line.split()
        try:
            for found in PHASES[name](Run(dry=dry, deadline=float(deadline))):
                print(json.dumps(found), file=out, flush=True)
        except Exception as error:  # noqa: BLE001 - the others go on
            import traceback

            traceback.print_exc()
            print(
                json.dumps({"event": "failed", "detail": f"{type(error).__name__}: {str(error)[:300]}"}),
                file=out,
                flush=True,
            )
        print(json.dumps({"event": "over"}), file=out, flush=True)


if __name__ == "__main__":
    main()
