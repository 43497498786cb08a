"""Texts that a decoder writes of sounds: requests of tensors in, tasks of tokens inside, pieces of text out."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.core.sampling_defaults import NO_DEFAULTS
from inferd.core.task import Usage
from inferd.engine.recipe.segments import LENGTH, Segments
from inferd.engine.tensor.checks import AT, check_inputs, choose_outputs
from inferd.engine.tensor.request import TensorResult
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended
from inferd.engine.token.script import Script
from inferd.engine.token.submission import Submission
from inferd.engine.work import TokenInput
from inferd.errors import InferdError, InvalidFieldError, UnsupportedInputError, suggestion
from inferd.plugin import LoadError, Signature
from inferd.plugin.tensor import NUMPY, ElementType, Tensor, TensorInfo
from inferd.sampling import GREEDY, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.core.vigil import Pulse
    from inferd.engine.activity import Activity
    from inferd.engine.recipe.segments import Segment
    from inferd.engine.tensor.request import Request
    from inferd.engine.token.limits import EngineLimits
    from inferd.engine.token.output import StepOutput
    from inferd.plugin import LoadedModel, TokenLimits
    from inferd.plugin.recipe import Recipe, WrittenOutput

PIECES: Final = "pieces"
"""The name of the dimension of an output that is a text in pieces, each set of outputs one."""

LANGUAGE, TASK, TIMES, TOKENS = "language", "task", "times", "_tokens"
SEGMENTS, BEGINS, ENDS, WRITTEN_IN, LASTS = "_segments", "_begins", "_ends", "_language", "_length"
TIMED: Final = (SEGMENTS, BEGINS, ENDS, WRITTEN_IN, LASTS)
"""Ends of the names of what is told only where times are asked for."""
SEGMENTED: Final = "segments"
"""What `times` may ask for."""
LIKELIEST: Final = fill(GREEDY, NO_DEFAULTS, task_id="")


@dataclass(slots=True)
class _Job:
    """A request that is written: row after row, each a task of the loop.

    Attributes:
        request: It.
        outputs: Those that are wanted.
        rows: What is left to be read, the next one last.
        start: Tokens that each row begins with.
        script: What is written then.
        skip: Sets of outputs that it has told before, in an engine that lost it.
        segments: Finds these; None where no times are asked for.
        language: That is written in and not told yet; "" for none, None while it is not known.
        length_s: Of the sound, where it is known and not told yet; else infinite.
        silent: Nothing but white space has been told.
        usage: Of the rows that have ended.
    """

    request: Request
    outputs: tuple[str, ...]
    rows: list[Any]
    start: tuple[int, ...]
    script: Script
    skip: int
    segments: Segments | None = None
    language: str | None = ""
    length_s: float = inf
    silent: bool = True
    usage: Usage = field(default_factory=Usage)


class Dictation:
    """Runs the tasks of a model that is an encoder and a decoder of text.

    To who submits it is like a `TensorLoop`: a request has rows, such as the windows of a sound, and its outputs are
    told piece by piece. To the token engine each row is a task, which begins when the one before it has ended; those of
    several requests are computed together.

    Args:
        model: The loaded model, with a `SourcedSession`.
        recipe: How it is used.
        limits: Bounds of the kernel's configuration.
        deliver: Called with what was computed.
        activity: Told what the thread of `run` is doing.

    Attributes:
        signature: What requests give and get.
        places: Tasks that can run at once.

    Raises:
        LoadError: The recipe names tokens that there are not, or no output that is written.
    """

    def __init__(
        self,
        model: LoadedModel,
        recipe: Recipe,
        limits: EngineLimits,
        deliver: Callable[[TensorResult], None],
        *,
        activity: Activity | None = None,
    ) -> None:
        self._written = _check(recipe, model.session.limits)
        self._languages, self._tasks = dict(self._written.languages), dict(self._written.tasks)
        self._deliver_tensors = deliver
        self._loop = Loop(model, limits, self._deliver, activity=activity)
        self.places = self._loop.bounds.rows
        self.signature = self._describe(model.session)
        self._lock = threading.Lock()
        self._jobs: dict[int, _Job] = {}  # by the handle of the row that is written
        self._rows: dict[int, int] = {}  # those handles, by those of requests
        self._last = 0  # handle of a row

    def submit(self, request: Request) -> None:
        """Run a task. Whatever becomes of it, its handle is in `TensorResult.ended` once, unless it is cancelled."""
        try:
            if request.prepare is not None:
                self._deliver_tensors(TensorResult(alone=request.handle))  # before the worker can die of it
                request = replace(request, inputs=request.prepare(), prepare=None)
            job = self._accept(request)
        except InferdError as error:
            self._deliver_tensors(TensorResult(ended=[Ended(handle=request.handle, error=error)]))
            return
        with self._lock:
            self._begin(job)

    def cancel(self, handle: int, *, again: bool = False) -> None:
        """Forget a task, as `Loop.cancel`."""
        with self._lock:
            row = self._rows.pop(handle, None)
            if row is not None:
                del self._jobs[row]
                self._loop.cancel(row, again=again)

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """As `Loop.hold`."""
        self._loop.hold(lease_id, fencing_token, sequences=sequences, kv_tokens=kv_tokens)

    def stop(self) -> None:
        """Let `run` return; what was submitted is forgotten."""
        self._loop.stop()

    def run(self) -> None:
        """Compute until `stop`."""
        self._loop.run()

    def pulse(self) -> Pulse:
        """What the thread of the steps is doing now."""
        return self._loop.pulse()

    def _describe(self, session: Any) -> Signature:
        name, shape = session.source
        inputs = [TensorInfo(name=name, element_type=ElementType.FLOAT, shape=("", *shape))]
        for option, known in ((LANGUAGE, self._languages), (TASK, self._tasks)):
            if known:
                told = f"{', '.join(known)}; default: {'the likeliest' if option == LANGUAGE else next(iter(known))}"
                inputs.append(
                    TensorInfo(
                        name=option, element_type=ElementType.STRING, shape=(1,), optional=True, description=told
                    )
                )
        text, timed = self._written.name, self._written.times is not None
        if timed:
            told = f"{SEGMENTED}: when each is said; default: none"
            inputs.append(
                TensorInfo(name=TIMES, element_type=ElementType.STRING, shape=(1,), optional=True, description=told)
            )
            length = "how long the sound is, s: no segment ends later"
            inputs.append(
                TensorInfo(name=LENGTH, element_type=ElementType.FLOAT, shape=(1,), optional=True, description=length)
            )
        outputs = (
            TensorInfo(name=text, element_type=ElementType.STRING, shape=(PIECES,), description="a piece of the text"),
            TensorInfo(
                name=text + TOKENS, element_type=ElementType.INT64, shape=("",), description="the tokens of the piece"
            ),
        )
        return Signature(inputs=tuple(inputs), outputs=(*outputs, *(_timed_outputs(text) if timed else ())))

    def _accept(self, request: Request) -> _Job:
        if request.sequence is not None:
            raise UnsupportedInputError("the model keeps nothing of a sequence", field="spec.infer.sequence")
        check_inputs(request.inputs, self.signature, carried=frozenset())
        outputs = choose_outputs(request.outputs, self.signature, carried=frozenset())
        rows = list(request.inputs[self.signature.inputs[0].name].array)
        if not rows:
            raise InvalidFieldError("there is nothing to write of: give at least one row", field=AT)
        segments = self._segments(request.inputs)
        plain = tuple(name for name in outputs if not name.endswith(TIMED))
        if segments is None and not plain:
            message = f"output {outputs[0]!r} is told where times are asked for: give the input {TIMES!r} {SEGMENTED!r}"
            raise InvalidFieldError(message, field="spec.infer.outputs[0]")
        start, script = self._script(request.inputs, timed=segments is not None)
        outputs = plain if segments is None else outputs
        language = _text_of(request.inputs, LANGUAGE) or (None if self._languages else "")
        length_s = _length_in(request.inputs)
        return _Job(request, outputs, rows[::-1], start, script, request.told, segments, language, length_s)

    def _segments(self, inputs: Mapping[str, Tensor]) -> Segments | None:
        """What finds segments, where they are asked for."""
        if not (asked := _text_of(inputs, TIMES)):
            return None
        if asked != SEGMENTED or self._written.times is None:
            message = f"input {TIMES!r} is {asked[:80]!r}; the model tells the times of {SEGMENTED} alone"
            raise InvalidFieldError(message, field=f"{AT}[{list(inputs).index(TIMES)}]")
        return Segments(self._written.times, _length_in(inputs))

    def _script(self, inputs: Mapping[str, Tensor], *, timed: bool) -> tuple[tuple[int, ...], Script]:
        """What a text begins with; of an unknown language the decoder chooses, and then follows what follows."""
        written = self._written
        times = written.times if timed else None
        behind = tuple(token for token in written.begin if times is None or token != times.silent)
        if self._tasks:
            chosen = _chosen(inputs, TASK, self._tasks)
            behind = (next(iter(self._tasks.values())) if chosen is None else chosen, *behind)
        language = _chosen(inputs, LANGUAGE, self._languages)
        opening: tuple[tuple[int, ...], ...] = ()
        start = written.start
        if self._languages and language is None:
            opening = (tuple(self._languages.values()), *((token,) for token in behind))
        else:
            start = (*start, *(() if language is None else (language,)), *behind)
        return start, Script(
            opening=opening, begin_suppress=written.begin_suppress, suppress=written.suppress, times=times
        )

    def _begin(self, job: _Job) -> None:
        """Have the next row of a request written. The lock is held."""
        request = job.request
        self._last = row = self._last + 1
        self._jobs[row], self._rows[request.handle] = job, row
        self._loop.submit(
            Submission(
                row,
                TokenInput(job.start),
                LIKELIEST,
                prefix_cache=False,
                priority=request.priority,
                lease_id=request.lease_id,
                fencing_token=request.fencing_token,
                alone=request.alone,
                source=job.rows.pop()[None],
                script=job.script,
            )
        )

    def _deliver(self, output: StepOutput) -> None:
        """Tell what a step gave in terms of requests."""
        result = TensorResult(seconds=output.seconds)
        with self._lock:
            if output.alone is not None and (job := self._jobs.get(output.alone)):
                result.alone = job.request.handle
            first = 0
            for row, count, text in zip(output.handles, output.counts, output.texts, strict=True):
                token_ids, first = output.token_ids[first : first + count], first + count
                if job := self._jobs.get(row):
                    self._tell(job, token_ids, text, result)
            for ended in output.ended:
                if job := self._jobs.pop(ended.handle, None):
                    self._end(job, ended, result)
        self._deliver_tensors(result)

    def _tell(self, job: _Job, token_ids: list[int], text: str, result: TensorResult) -> None:
        ended: list[Segment] = []
        if job.segments is not None:
            text = "" if self._says_times(token_ids) else text
            ended = job.segments.add(token_ids, text)
            if token_ids and job.language is None:
                job.language = next((name for name, token in self._languages.items() if token == token_ids[0]), "")
        if job.silent:
            text = text.lstrip()
            job.silent = not text
        self._put(job, token_ids, text, ended, result)

    def _says_times(self, token_ids: list[int]) -> bool:
        """Whether tokens are times alone: they may have pieces, which are no text."""
        times = self._written.times
        return times is not None and bool(token_ids) and all(times.seconds(each) is not None for each in token_ids)

    def _put(self, job: _Job, token_ids: list[int], text: str, ended: list[Segment], result: TensorResult) -> None:
        """Tell a set of outputs, unless it was told before."""
        language, job.language = job.language, job.language and ""
        length_s, job.length_s = job.length_s, inf
        if job.skip:
            job.skip -= 1
            return
        name = self._written.name
        made = {name: _texts([text]), name + TOKENS: _numbers(token_ids, ElementType.INT64)}
        if job.segments is not None:
            made[name + SEGMENTS] = _texts([each.text for each in ended])
            made[name + BEGINS] = _numbers([each.begin_s for each in ended], ElementType.FLOAT)
            made[name + ENDS] = _numbers([each.end_s for each in ended], ElementType.FLOAT)
            made[name + WRITTEN_IN] = _texts([language] if language else [])
            made[name + LASTS] = _numbers([length_s] if length_s < inf else [], ElementType.FLOAT)
        result.outputs.append((job.request.handle, {each: made[each] for each in job.outputs}))

    def _end(self, job: _Job, ended: Ended, result: TensorResult) -> None:
        """A row has been written, or failed; the last one ends the request."""
        job.usage = Usage(
            prompt_tokens=job.usage.prompt_tokens + ended.usage.prompt_tokens,
            output_tokens=job.usage.output_tokens + ended.usage.output_tokens,
        )
        if job.segments is not None and ended.error is None and (left := job.segments.end_row()):
            self._put(job, [], "", left, result)
        if job.rows and ended.error is None:
            self._begin(job)
            return
        handle = job.request.handle
        del self._rows[handle]
        result.ended.append(Ended(handle=handle, error=ended.error, usage=job.usage))


def _check(recipe: Recipe, limits: TokenLimits) -> WrittenOutput:
    """What is written, where a text can ever be."""
    written, size = recipe.written, limits.vocabulary_size
    if written is None or recipe.outputs:
        raise LoadError(f'{recipe.where}: the model writes text: it must have one output, [output.text] as = "written"')
    if wrong := [number for number in written.token_ids if not 0 <= number < size]:
        raise LoadError(f"{recipe.where}: output {written.name!r} names token {wrong[0]}; the model has {size}")
    begin = len(written.start) + bool(written.languages) + bool(written.tasks) + len(written.begin)
    if begin >= limits.context_tokens:
        raise LoadError(
            f"{recipe.where}: output {written.name!r} begins with {begin} tokens, and the model has room for"
            f" {limits.context_tokens}: nothing could be written behind them"
        )
    if len({*written.suppress, *written.begin_suppress}) >= size:
        raise LoadError(f"{recipe.where}: output {written.name!r} suppresses each of the model's {size} tokens")
    return written


def _timed_outputs(text: str) -> tuple[TensorInfo, ...]:
    """What is told besides where times are asked for: of the segments that have ended, and the language once."""
    seconds, texts = ElementType.FLOAT, ElementType.STRING
    made = ((SEGMENTS, texts, "segments"), (BEGINS, seconds, "their begins, s"), (ENDS, seconds, "their ends, s"))
    told = (*made, (WRITTEN_IN, texts, "the language, once"), (LASTS, seconds, "the length of the sound, s, once"))
    return tuple(
        TensorInfo(name=text + name, element_type=kind, shape=("",), description=f"{what}, with the input times")
        for name, kind, what in told
    )


def _texts(texts: Sequence[str]) -> Tensor:
    array = np.empty(len(texts), object)
    array[:] = texts
    return Tensor(element_type=ElementType.STRING, shape=array.shape, array=array)


def _numbers(numbers: Sequence[float], kind: ElementType) -> Tensor:
    array = np.array(numbers, NUMPY[kind])
    return Tensor(element_type=kind, shape=array.shape, array=array)


def _length_in(inputs: Mapping[str, Tensor]) -> float:
    """How long a sound is, in seconds; infinite where nobody says."""
    return float(inputs[LENGTH].array[0]) if LENGTH in inputs else inf


def _text_of(inputs: Mapping[str, Tensor], name: str) -> str:
    """What an input of one text says; "" where it is not given."""
    return str(inputs[name].array[0]) if name in inputs else ""


def _chosen(inputs: Mapping[str, Tensor], option: str, known: Mapping[str, int]) -> int | None:
    """The token of what a client chose; None where it chose nothing."""
    if option not in inputs:
        return None
    value = str(inputs[option].array[0])
    if value not in known:
        raise InvalidFieldError(_unknown(option, value, list(known)), field=f"{AT}[{list(inputs).index(option)}]")
    return known[value]


def _unknown(option: str, value: str, known: Sequence[str]) -> str:
    near = suggestion(value, list(known))
    hint = f"; did you mean {near!r}?" if near else "."
    return f"input {option!r} is {value[:80]!r}, which the model does not have{hint} It has: {', '.join(known)}"
