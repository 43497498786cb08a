"""Whether a worker gets on: judged by what it says that it is doing, and by whether it answers at all.

A worker that answers may hang nevertheless, since another thread of it answers. So each answer says what the thread of
the model is doing, which turn of it that is, and for how long; one turn that lasts too long is a hung worker.

Limits are counted in beats, at each of which the worker is asked once, and by the clock: both must have passed. A
kernel or a machine that is busy asks less often and judges later. A kernel that was stopped asked nobody meanwhile: the
first beat after that judges nobody, and everything is counted anew from it. A worker that was stopped answers nothing;
to the kernel it is one that hangs. Where the machine itself sleeps, both clocks stand still.
"""

from dataclasses import dataclass
from enum import IntEnum

STEP_FACTOR = 10.0  # a step may take so many times as long as the slowest of its size did
SLEPT_S = 1.0  # a beat that comes later than that, and than the next one was due, comes from a kernel that was stopped


class Doing(IntEnum):
    """What the thread of the model is doing."""

    STARTING = 0
    IMPORT = 1
    MEASURE = 2
    WAITING = 3  # for the memory that it needs
    LOAD = 4
    PREPARE = 5  # tokenizer and engine, from what was loaded
    IDLE = 6  # nothing to do, or waiting for the kernel to read
    SCHEDULE = 7
    COPY = 8
    STEP = 9
    CLOSE = 10
    DECODE = 11  # a picture or a sound, beside the thread of the model
    TEND = 12  # a training between its steps: judging, saving, writing what came of it; as long as its data takes


LOADING = frozenset((Doing.IMPORT, Doing.MEASURE, Doing.LOAD, Doing.PREPARE))
STEPPING = frozenset((Doing.SCHEDULE, Doing.COPY, Doing.STEP, Doing.DECODE))
WORDS = {
    Doing.IMPORT: "the import of the backend has run",
    Doing.MEASURE: "Backend.measure has run",
    Doing.LOAD: "Backend.load has told no progress",
    Doing.PREPARE: "the making of the tokenizer has run",
    Doing.SCHEDULE: "the scheduling of step {step} has run",
    Doing.COPY: "copy_blocks before step {step} has run",
    Doing.STEP: "step {step} has run",
    Doing.DECODE: "the decoding of a picture or a sound has run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTimes:
    """How long what may take; see `inferd.config.Workers`."""

    start_timeout_s: float
    load_silence_s: float
    heartbeat_s: float
    heartbeat_timeout_s: float
    step_floor_s: float
    step_ceiling_s: float
    stop_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a worker says of itself.

    Attributes:
        doing: What it is doing.
        turn: Rises whenever it begins something, or gets on with it.
        seconds: For how long this turn has lasted.
        usual_s: The slowest of the last turns of this kind and size; None when there was none, or when turns of a size
            may take any time.
        steps: Steps that were computed.
    """

    doing: Doing
    turn: int = 0
    seconds: float = 0.0
    usual_s: float | None = None
    steps: int = 0


class Vigil:
    """Watches one worker. One writer: who asks it.

    Args:
        times: The limits.
        now: Seconds on a monotonic clock, as in all methods.
    """

    def __init__(self, times: WorkerTimes, now: float) -> None:
        self._times = times
        self._silence_s = times.start_timeout_s
        self._heard_at = self._beat_at = now
        self._unheard = 0  # beats since it was heard
        self._pulse = Pulse(doing=Doing.STARTING)
        self._felt = False  # since the last beat
        self._same = 0  # beats at which it was in the same turn

    def allow_silence(self, limit_s: float, now: float) -> None:
        """It may be silent for so long from now on."""
        self._silence_s = limit_s
        self.hear(now)

    def hear(self, now: float) -> None:
        """It has said something."""
        self._heard_at, self._unheard = now, 0

    def feel(self, pulse: Pulse) -> None:
        """It has said what it is doing."""
        if pulse.turn != self._pulse.turn:
            self._same = 0
        self._pulse, self._felt = pulse, True

    def beat(self, now: float) -> str:
        """Judge it, just before it is asked again: why it hangs, or "" when it does not."""
        heartbeat_s = self._times.heartbeat_s
        gap_s, self._beat_at = now - self._beat_at, now
        if gap_s > 2 * heartbeat_s + SLEPT_S:
            self._same, self._felt = 0, False
            self.hear(now)
            return ""
        self._unheard += 1
        silence_s = now - self._heard_at
        if min(silence_s, self._unheard * heartbeat_s) > self._silence_s:
            return f"it was silent for {silence_s:.1f} s, longer than the {self._silence_s:g} s that it may be"
        self._same += self._felt
        self._felt = False
        pulse, limit_s = self._pulse, self._limit_s()
        if limit_s is None or min(pulse.seconds, self._same * heartbeat_s) <= limit_s:
            return ""
        return f"{WORDS[pulse.doing].format(step=pulse.steps + 1)} for {pulse.seconds:.1f} s (limit {limit_s:g} s)"

    def _limit_s(self) -> float | None:
        """How long the present turn may last; None for ever."""
        times, pulse = self._times, self._pulse
        if pulse.doing in LOADING:
            return times.load_silence_s
        if pulse.doing not in STEPPING:
            return None
        if pulse.usual_s is None:  # the first of its size may compile
            return times.step_ceiling_s
        return min(times.step_ceiling_s, max(times.step_floor_s, STEP_FACTOR * pulse.usual_s))
