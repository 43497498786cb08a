"""Figures of the engine and its backend alone: no kernel, no gRPC, one process."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limits import Figure
from workload import CASES, WARM, Case

from inferd.engine.token.submission import Submission
from inferd.engine.work import TokenInput
from inferd.sampling import Sampling


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`engine.*`: the workload through the engine's loop, from submission to the last token."""
    wanted = [case for case in CASES if f"engine.{case.name}".startswith(only)]
    if not wanted:
        return
    runner = Runner(weights)
    runner.run(WARM)
    for case in wanted:
        tokens, unit = case.figure
        value = round(tokens / runner.run(case), 1)
        yield Figure(name=f"engine.{case.name}", value=value, unit=unit, detail=runner.detail)
    runner.close()


def load(backend: Any, spec: Any, path: Path, **settings: str) -> Any:
    """A model that a backend loads on the processor."""
    from inferd.plugin import LoadRequest  # noqa: PLC0415 - numpy must see the environment
    from inferd.plugin.backend import read_settings  # noqa: PLC0415 - as above

    values = read_settings(spec, settings)
    return backend.load(LoadRequest(path=path, device="cpu:0", settings=values, capacity_bytes=8 << 30), lambda _: None)


class Runner:
    """The loop of an engine on a thread of its own; by default with the native backend, with `settings`."""

    def __init__(self, weights: Path, model: Any = None, **settings: str) -> None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(os.cpu_count()))
        from inferd.engine.token.limits import EngineLimits  # noqa: PLC0415 - numpy must see the environment
        from inferd.engine.token.loop import Loop  # noqa: PLC0415 - as above
        from inferd.engine.token.output import StepOutput  # noqa: PLC0415 - as above

        if model is None:
            from inferd_cpu.backend import CpuBackend  # noqa: PLC0415 - as above
            from inferd_cpu.plugin import SPEC  # noqa: PLC0415 - as above

            model = load(CpuBackend(), SPEC, weights, **{"kv_tokens": "20480", "max_sequences": "64"} | settings)
        self.detail = f"{model.description.weight_format} as {model.description.compute_format}, engine only"
        self._left = 0
        self._done = threading.Event()
        self._errors: list[str] = []
        self._handle = 0

        def deliver(output: StepOutput) -> None:
            self._left -= len(output.ended)
            self._errors += [str(ended.error) for ended in output.ended if ended.error is not None]
            if not self._left:
                self._done.set()

        limits = EngineLimits(step_tokens=512, template_timeout_s=2.0, max_output_tokens=8192)
        self._loop = Loop(model, limits, deliver)
        self._thread = threading.Thread(target=self._loop.run, daemon=True)
        self._thread.start()

    def run(self, case: Case) -> float:
        """Seconds that a case takes."""
        self._left = case.sequences
        self._done.clear()
        sampling = Sampling(max_tokens=case.output_tokens, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        for prompt in case.prompts():
            self._handle += 1
            self._loop.submit(Submission(self._handle, TokenInput(tuple(prompt)), sampling))
        if not self._done.wait(600) or self._errors:
            raise RuntimeError(f"{case.name} did not end: {self._errors}")
        return time.perf_counter() - started

    def close(self) -> None:
        """End the thread."""
        self._loop.stop()
        self._thread.join()
