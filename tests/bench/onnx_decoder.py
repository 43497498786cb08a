"""Figures of language models through ONNX Runtime: our graph, and beside ONNX Runtime GenAI in one sitting.

`BENCH_GENAI` names a folder that GenAI's model builder has written of the same weights in 4 bits; where the
package is installed, too, it and we compute that folder and ours in turn, so that a disturbance meets all of them.
"""

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from engine import Runner, load
from limits import Figure
from workload import CASES, WARM, Case

FOLDER = "BENCH_GENAI"
ROUNDS = 3
SEQUENCES = (1, 8, 32)
Way = Callable[[Case], float]


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`onnx.*`: tokens a second of our graph, of the folder in our engine, and of GenAI; then what part of GenAI's."""
    wanted = [case for case in CASES if case.sequences in SEQUENCES and f"onnx.{case.name}".startswith(only)]
    if not wanted or find_spec("onnxruntime") is None:
        return
    from inferd_onnx.backend import OnnxBackend  # noqa: PLC0415 - numpy must see the environment
    from inferd_onnx.plugin import SPEC  # noqa: PLC0415 - as above

    sizes = {"kv_tokens": "10240", "max_sequences": "32", "context_tokens": "2048"}
    ours = Runner(weights, load(OnnxBackend(), SPEC, weights, quantization="4bit", **sizes))
    ways: dict[str, Way] = {"graph": ours.run}
    runners = [ours]
    folder = os.environ.get(FOLDER, "")
    if folder and find_spec("onnxruntime_genai") is not None:
        runners.append(Runner(weights, load(OnnxBackend(), SPEC, Path(folder), **sizes)))
        ways |= {"folder": runners[-1].run, "genai": _genai(folder)}
    for way in ways.values():
        way(WARM)
    for case in wanted:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                seconds[name].append(way(case))
        yield from _tell(case, seconds)
    for runner in runners:
        runner.close()


def _tell(case: Case, seconds: dict[str, list[float]]) -> Iterator[Figure]:
    tokens, unit = case.figure
    for name, taken in seconds.items():
        value = round(tokens / median(taken), 1)
        yield Figure(name=f"onnx.{case.name}.{name}", value=value, unit=unit, detail=f"4 bits, middle of {ROUNDS}")
    for name in ("graph", "folder"):
        if "genai" in seconds:
            pairs = zip(seconds["genai"], seconds[name], strict=True)
            value = round(median(theirs / ours for theirs, ours in pairs), 2)
            yield Figure(name=f"onnx.{case.name}.{name}_of_genai", value=value, unit="x", detail="in turn, middle")


def _genai(folder: str) -> Way:
    """What computes a case with ONNX Runtime GenAI: all sequences as one batch, in the seconds that it takes."""
    import numpy as np  # noqa: PLC0415 - it must see the environment
    import onnxruntime_genai as genai  # noqa: PLC0415 - it is there for few

    model = genai.Model(folder)

    def run(case: Case) -> float:
        prompts = np.array(list(case.prompts()), np.int32)
        length = prompts.shape[1] + case.output_tokens
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=length, min_length=length, batch_size=case.sequences, do_sample=False)
        started = time.perf_counter()
        generator = genai.Generator(model, parameters)
        generator.append_tokens(prompts)
        for _ in range(case.output_tokens):
            generator.generate_next_token()
        return time.perf_counter() - started

    return run
