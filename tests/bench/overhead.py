"""What the engine itself costs: its loop over the FakeBackend, the time inside the session taken off."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from limits import Figure

from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import TokenInput
from inferd.plugin import LoadRequest, StepResult, TokenBatch, TokenSession
from inferd.sampling import Sampling
from inferd.testing.fake import FakeBackend
from inferd.worker.frames import step_frame

SEQUENCES = 64
TOKENS = 600
SKIPPED = 100  # steps at the beginning, with prompts in them


class TimedSession:
    """Notes when each step of another session began and ended."""

    def __init__(self, session: TokenSession) -> None:
        self.limits = session.limits
        self.copy_blocks = session.copy_blocks
        self.close = session.close
        self.begun: list[float] = []
        self.ended: list[float] = []
        self._session = session

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step."""
        self.begun.append(time.perf_counter())
        result = self._session.step(batch)
        self.ended.append(time.perf_counter())
        return result


def figures(*, only: str) -> Iterator[Figure]:
    """`engine.overhead`: from the end of a step of the session to the beginning of the next."""
    if not "engine.overhead".startswith(only):
        return
    session = _run()
    between = sorted(b - e for e, b in zip(session.ended[SKIPPED:-1], session.begun[SKIPPED + 1 :], strict=False))
    value = round(between[len(between) // 2] * 1e6, 1)
    detail = f"{SEQUENCES} sequences, greedy, median of {len(between)} steps; {value / SEQUENCES:.2f} us a sequence"
    yield Figure(name="engine.overhead", value=value, unit="us/step", detail=detail)


def _run() -> TimedSession:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.fake"
        path.write_text(json.dumps({"blocks": 8192}), encoding="utf-8")
        request = LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30)
        model = FakeBackend().load(request, lambda _: None)
    session = TimedSession(model.session)
    done = threading.Event()
    left = SEQUENCES

    def deliver(output: StepOutput) -> None:
        nonlocal left
        step_frame(output).SerializeToString()  # as the worker does before it writes to its link
        left -= len(output.ended)
        if not left:
            done.set()

    loop = Loop(
        type(model)(session=session, vocabulary=model.vocabulary, description=model.description),
        EngineLimits(),
        deliver,
    )
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    for handle in range(SEQUENCES):
        sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        loop.submit(Submission(handle, TokenInput((97 + handle % 26,) * 16), sampling))
    if not done.wait(120):
        raise RuntimeError("the run did not end")
    loop.stop()
    thread.join()
    return session
