"""This tree: `run_ours.py WEIGHTS CASE… -- WAY [SETTING=VALUE…]`, where a way is served, gathered or engine.

served: each token streamed through gRPC, by a client on the same cores; gathered: whole outputs the same way; engine:
no kernel, no gRPC, one process.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engine import Runner
from served import ROOM, kernel, load, run_case
from workload import CASES, LONG, WARM, Case, room

from inferd_client import Client

BLOCKS_TOKENS = 4096  # what the last KV blocks of 64 sequences have beyond their tokens


def main() -> None:
    """One JSON line for each case, after one that warms up."""
    border = sys.argv.index("--")
    names, (way, *settings) = sys.argv[2:border], sys.argv[border + 1 :]
    values = dict(setting.split("=", 1) for setting in settings)
    with ExitStack() as stack:
        tokens_at_once = room(names) + BLOCKS_TOKENS
        values = {"kv_tokens": str(max(tokens_at_once, int(ROOM["kv_tokens"]))), **values}
        time_case = prepare(stack, Path(sys.argv[1]), way, values)
        time_case(WARM)
        for case in (case for case in (*CASES, *LONG) if case.name in names):
            seconds = time_case(case)
            if case.decodes:
                seconds -= time_case(case.reading)
            tokens = case.figure[0] if case.output_tokens > 1 else case.sequences
            print(json.dumps({"case": case.name, "seconds": round(seconds, 4), "tokens": tokens}), flush=True)


def prepare(stack: ExitStack, weights: Path, way: str, settings: dict[str, str]) -> Callable[[Case], float]:
    """What gives the seconds that a case takes, with the model loaded; `stack` ends it."""
    if way == "engine":
        runner = Runner(weights, **settings)
        stack.callback(runner.close)
        return runner.run
    process = stack.enter_context(kernel())
    load(stack.enter_context(Client(process.address)), weights, **settings)
    return lambda case: asyncio.run(run_case(process.address, case, gathers=way == "gathered"))[0]


if __name__ == "__main__":
    main()
