"""What runs in a peer's environment: the standard library and the peer alone.

A script of a peer is called as `python run_PEER.py MODEL CASE…`, makes a `generate`, and gives it to `run`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workload import CASES, LONG, WARM, Case

MODEL = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
THREADS = len(os.sched_getaffinity(0))

Generate = Callable[[list[list[int]], int], int]
"""Continues prompts of token ids by so many tokens each, greedily and past any end; how many came."""


def run(generate: Generate) -> None:
    """One JSON line for each case that the command line names, after one that warms up."""

    def take(case: Case) -> tuple[float, int]:
        prompts = case.prompts()
        begun = time.perf_counter()
        tokens = generate(prompts, case.output_tokens)
        seconds = time.perf_counter() - begun
        if case.decodes:
            return seconds - take(case.reading)[0], tokens - case.sequences
        return seconds, tokens

    take(WARM)
    for case in (case for case in (*CASES, *LONG) if case.name in sys.argv[2:]):
        seconds, tokens = take(case)
        print(json.dumps({"case": case.name, "seconds": round(seconds, 4), "tokens": tokens}), flush=True)
