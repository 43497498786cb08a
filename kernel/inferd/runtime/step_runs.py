"""Steps of an engine that were read together, told as one: what each stream takes then costs once, not for each."""

from collections.abc import Iterable, Iterator
from itertools import chain

from inferd_api.worker.v1 import step_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

_S = step_pb2.StepOutput
PLAIN = {
    _S.HANDLES_FIELD_NUMBER,
    _S.COUNTS_FIELD_NUMBER,
    _S.TOKEN_IDS_FIELD_NUMBER,
    _S.TEXTS_FIELD_NUMBER,
    _S.SAMPLES_FIELD_NUMBER,
    _S.SECONDS_FIELD_NUMBER,
    _S.SEQUENCES_FIELD_NUMBER,
    _S.KV_TOKENS_FIELD_NUMBER,
}
"""What a step tells that gave each sample of its tasks one token, and nothing else."""


def is_plain(frame: wire.WorkerFrame) -> bool:
    """Whether a frame is a step that gave each sample of its tasks one token, and nothing else."""
    step = frame.step
    count = len(step.handles)
    return (
        0 < count == len(step.token_ids) == len(step.texts) == len(step.counts)
        and max(step.counts) == min(step.counts) == 1
        and len(step.samples) in {0, count}
        and all(field.number in PLAIN for field, _ in step.ListFields())
    )


def merged(frames: Iterable[wire.WorkerFrame]) -> Iterator[wire.WorkerFrame]:
    """The frames of one worker in their order, plain steps that follow each other with the same samples as one.

    A part of it has the tokens of all of them, one after the other, and is one event of its task.
    """
    alike: list[wire.WorkerFrame] = []
    for frame in frames:
        plain = is_plain(frame)
        if alike and not (plain and _of_same(frame.step, alike[0].step)):
            yield _one(alike)
            alike = []
        if plain:
            alike.append(frame)
        else:
            yield frame
    if alike:
        yield _one(alike)


def runs(steps: Iterable[wire.WorkerFrame]) -> Iterator[wire.WorkerFrame]:
    """The same of frames that are all plain steps."""
    alike: list[wire.WorkerFrame] = []
    for frame in steps:
        if alike and not _of_same(frame.step, alike[0].step):
            yield _one(alike)
            alike = []
        alike.append(frame)
    if alike:
        yield _one(alike)


def _of_same(step: step_pb2.StepOutput, other: step_pb2.StepOutput) -> bool:
    return step.handles == other.handles and step.samples == other.samples


def _one(frames: list[wire.WorkerFrame]) -> wire.WorkerFrame:
    if len(frames) == 1:
        return frames[0]
    frame, steps = wire.WorkerFrame(), [frame.step for frame in frames]
    one, first = frame.step, steps[0]
    one.handles.extend(first.handles)
    one.samples.extend(first.samples)
    one.counts.extend([len(steps)] * len(first.handles))
    one.token_ids.extend(chain.from_iterable(zip(*(step.token_ids for step in steps), strict=True)))
    one.texts.extend(map("".join, zip(*(step.texts for step in steps), strict=True)))
    one.each_seconds.extend(step.seconds for step in steps)
    one.each_sequences.extend(step.sequences for step in steps if step.sequences)
    if steps[-1].HasField("kv_tokens"):
        one.kv_tokens = steps[-1].kv_tokens
    return frame
