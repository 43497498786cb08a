"""Texts that a decoder writes of sounds: requests of tensors in, tasks of tokens inside, pieces of text out."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.core.sampling_defaults import NO_DEFAULTS
from inferd.core.task import Usage
from inferd.engine.tensor.checks import AT, check_inputs, choose_outputs
from inferd.engine.tensor.request import TensorResult
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended
from inferd.engine.token.script import Script
from inferd.engine.token.submission import Submission
from inferd.engine.work import TokenInput
from inferd.errors import InferdError, InvalidFieldError, UnsupportedInputError, suggestion
from inferd.plugin import LoadError, Signature
from inferd.plugin.tensor import ElementType, Tensor, TensorInfo
from inferd.sampling import GREEDY, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.core.vigil import Pulse
    from inferd.engine.activity import Activity
    from inferd.engine.tensor.request import Request
    from inferd.engine.token.limits import EngineLimits
    from inferd.engine.token.output import StepOutput
    from inferd.plugin import LoadedModel, TokenLimits
    from inferd.plugin.recipe import Recipe, WrittenOutput

PIECES: Final = "pieces"
"""The name of the dimension of an output that is a text in pieces, each set of outputs one."""

LANGUAGE, TASK, TOKENS = "language", "task", "_tokens"
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
        silent: Nothing but white space has been told.
        usage: Of the rows that have ended.
    """

    request: Request
    outputs: tuple[str, ...]
    rows: list[Any]
    start: tuple[int, ...]
    script: Script
    skip: int
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
        text = self._written.name
        outputs = (
            TensorInfo(name=text, element_type=ElementType.STRING, shape=(PIECES,), description="a piece of the text"),
            TensorInfo(
                name=text + TOKENS, element_type=ElementType.INT64, shape=("",), description="the tokens of the piece"
            ),
        )
        return Signature(inputs=tuple(inputs), outputs=outputs)

    def _accept(self, request: Request) -> _Job:
        if request.sequence is not None:
            raise UnsupportedInputError("the model keeps nothing of a sequence", field="spec.infer.sequence")
        check_inputs(request.inputs, self.signature, carried=frozenset())
        outputs = choose_outputs(request.outputs, self.signature, carried=frozenset())
        rows = list(request.inputs[self.signature.inputs[0].name].array)
        if not rows:
            raise InvalidFieldError("there is nothing to write of: give at least one row", field=AT)
        start, script = self._script(request.inputs)
        return _Job(request, outputs, rows[::-1], start, script, request.told)

    def _script(self, inputs: Mapping[str, Tensor]) -> tuple[tuple[int, ...], Script]:
        """What a text begins with; of an unknown language the decoder chooses, and then follows what follows."""
        written = self._written
        behind = written.begin
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
        return start, Script(opening=opening, begin_suppress=written.begin_suppress, suppress=written.suppress)

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
        if job.silent:
            text = text.lstrip()
            job.silent = not text
        if job.skip:
            job.skip -= 1
            return
        name = self._written.name
        made = {
            name: Tensor(element_type=ElementType.STRING, shape=(1,), array=np.array([text], object)),
            name + TOKENS: Tensor(
                element_type=ElementType.INT64, shape=(len(token_ids),), array=np.array(token_ids, np.int64)
            ),
        }
        result.outputs.append((job.request.handle, {each: made[each] for each in job.outputs}))

    def _end(self, job: _Job, ended: Ended, result: TensorResult) -> None:
        """A row has been written, or failed; the last one ends the request."""
        job.usage = Usage(
            prompt_tokens=job.usage.prompt_tokens + ended.usage.prompt_tokens,
            output_tokens=job.usage.output_tokens + ended.usage.output_tokens,
        )
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
