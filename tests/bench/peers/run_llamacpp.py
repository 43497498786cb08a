"""llama.cpp by the wheel of its Python binding: continuous batching, without its prompt cache."""

import sys
from typing import Any

import xllamacpp
from runner import MODEL, THREADS, run
from workload import CASES, LONG, room

params = xllamacpp.CommonParams()
params.model.path = str(MODEL)
params.n_ctx = room([case.name for case in (*CASES, *LONG) if case in CASES or case.name in sys.argv[2:]]) + 1024
params.n_parallel = max(case.sequences for case in CASES)
params.kv_unified = True  # any sequence may have all of the context
params.n_batch, params.n_ubatch = 2048, 512
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
params.warmup = False
server = xllamacpp.Server(params)


def generate(prompts: list[list[int]], count: int) -> int:
    """See `runner.Generate`; all prompts are one request."""
    answer: Any = server.handle_completions(
        {
            "prompt": prompts,
            "n_predict": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
    )
    answers = answer if isinstance(answer, list) else [answer]
    if any("error" in one or "code" in one for one in answers):
        raise RuntimeError(str(answers[0])[:500])
    if sum(len(one["choices"]) for one in answers) != len(prompts):
        raise RuntimeError(f"{len(prompts)} prompts were given; answered was {str(answer)[:500]}")
    return sum(
        one["usage"]["completion_tokens"] * len(one["choices"]) for one in answers
    )  # usage is that of one of them


run(generate)
