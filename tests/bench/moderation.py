"""What rules add to the time to the first token: tasks of the engine alone, under rules and under none, in turns.

No word begins as the text does: a token that may begin one waits for the next ones, as long as these take.
"""

import json
import queue
import random
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from limits import Figure

from inferd.core.ids import Tenant
from inferd.core.moderation import ModerationAction
from inferd.engine.moderation.screening import Screening
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Share, Submission
from inferd.engine.work import TokenInput
from inferd.moderation.rules import On, Rule, write_rules
from inferd.plugin import LoadRequest
from inferd.sampling import Sampling
from inferd.testing.fake import FakeBackend

TASKS = 30
WORDS = 1000
PROMPT = b"the quick brown fox jumps over the lazy dog " * 2
FREE = "inferd:bench"  # a tenant under no rules


def figures(*, only: str) -> Iterator[Figure]:
    """`moderation.ttft`: the median under rules of tier 1, less the median under none."""
    if not "moderation.ttft".startswith(only):
        return
    free, under = _run()
    value = round((median(under) - median(free)) * 1e3, 3)
    yield Figure(
        name="moderation.ttft",
        value=value,
        unit="ms",
        detail=f"{WORDS} words and a pattern on inputs, {WORDS} words on outputs; medians of {TASKS} prompts of"
        f" {len(PROMPT)} characters: {median(free) * 1e3:.2f} ms under none, {median(under) * 1e3:.2f} ms under them",
    )


def _rules() -> list[Rule]:
    rng = random.Random(1)
    words = tuple("z" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(6, 12))) for _ in range(WORDS))
    return [
        Rule(name="words", words=words, action=ModerationAction.REDACT),
        Rule(name="numbers", patterns=(r"\b\d{4} \d{4} \d{4}\b",), on=frozenset({On.INPUT})),
    ]


def _run() -> tuple[list[float], list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.fake"
        path.write_text(json.dumps({"blocks": 8192}), encoding="utf-8")
        model = FakeBackend().load(LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30), lambda _: None)
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
    loop = Loop(model, EngineLimits(), lambda output: screening.deliver(output))  # noqa: PLW0108 - it is made below
    screening = Screening(sent.put, loop.fail)
    screening.go_by(write_rules(_rules()))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    for handle in range(1, 2 * TASKS + 1):
        free = bool(handle % 2)
        tenant = Tenant(FREE if free else "default")
        submission = Submission(
            handle,
            TokenInput(array("I", list(PROMPT))),
            Sampling(max_tokens=8, temperature=0),
            share=Share(tenant=tenant),
            prefix_cache=False,
        )
        began = time.perf_counter()
        check = screening.submit(submission)
        loop.submit(submission if check is None else replace(submission, check=check))
        first = 0.0
        while True:
            output = sent.get(timeout=60)
            first = first or (time.perf_counter() - began if any(output.texts) else 0.0)
            if output.ended:
                assert output.ended[0].error is None, output.ended
                break
        if handle > 2:  # the first ones make the tables
            times[free].append(first)
    loop.stop()
    thread.join()
    return times[True], times[False]
