"""What stands between the frames of the link and an engine: one desk for each kind of session."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from inferd.engine.cause import last_line
from inferd.engine.function.backend import LoadedFunctions
from inferd.engine.moderation.screening import Screening
from inferd.engine.recipe.dictation import Dictation
from inferd.engine.recipe.engine import RecipeEngine
from inferd.engine.recipe.preparation import Preparation
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import TensorResult
from inferd.engine.token.keeping import Keeping, Kept
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.training.backend import LoadedTraining
from inferd.engine.training.following import LoadedFollower
from inferd.errors import InferdError, InternalError, UnsupportedInputError, is_failure
from inferd.plugin import KeepingSession, LoadedTensorModel, LoadError
from inferd.plugin.host import count_cores
from inferd.plugin.recipe import Recipe
from inferd.plugin.recipe_file import find_recipe, read_recipe
from inferd.worker.adapters import AdapterDesk, refuse_adapter
from inferd.worker.frames import answer_frame, failure, read_defaults, read_load, read_submission, step_frame
from inferd.worker.function_desk import FunctionDesk
from inferd.worker.tensor_frames import (
    read_recipe_limits,
    read_request,
    read_tensor_limits,
    tensor_step_frames,
    write_signature,
)
from inferd.worker.training_desk import TrainingDesk
from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.engine import Engine
    from inferd.engine.token.intake import Intake
    from inferd.plugin import LoadedModel
    from inferd.shared import Memory
    from inferd.worker.identity import Identity
    from inferd.worker.link import Link

PREPARING: Final = 4  # threads that prepare requests, at most
NO_IDENTITY: Final = Kept(why_not="the backend gives no KV blocks out of its sessions, or the files cannot be seen")
TOKENIZER: Final = "tokenizer.json"
_log = logging.getLogger(__name__)


class Desk(Protocol):
    """Translates for one engine. `submit` and `answer` belong to the thread that reads the link."""

    @property
    def engine(self) -> Engine:
        """For whom it translates."""
        ...

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:
        """Have a task run, or tell why it cannot be. Parts of it may be in memories."""

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have a task forgotten."""

    def moderate(self, rules: bytes, search_s: float) -> None:
        """Go by other rules from now on."""

    def hear(self, verdict: moderation_pb2.Verdict) -> None:
        """Take what a classifier says."""

    def take(self, reply: ask_pb2.Reply) -> None:
        """Tell a call what came of what it asked a model."""

    def adapt(self, order: adapter_pb2.Adapters | adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:
        """Have these adapters and no others, or hold one whose files are in memories."""

    def answer(self, query: task_pb2.Query) -> None:
        """Have a question answered."""

    def loaded(self) -> load_pb2.Loaded:
        """What the engine can do."""
        ...

    def keep(self, order: wire.Stop | prefix_pb2.Keep) -> None:
        """Keep what of the model outlives the worker: at once where that has computed its last step."""

    def adopt(self, memories: Sequence[Memory]) -> None:
        """Have what another worker of the model kept found again."""


def make_desk(
    model: LoadedModel | LoadedTensorModel | LoadedFunctions | LoadedTraining | LoadedFollower,
    load: load_pb2.Load,
    link: Link,
    activity: Activity,
    *,
    identity: Identity | None = None,
) -> Desk:
    """An engine for a model, and who translates for it. Without its `identity` its prefix cache is not kept.

    Raises:
        LoadError: The recipe beside it is wrong, or for another kind of model.
    """
    if isinstance(model, LoadedFunctions):
        return FunctionDesk(model, link, activity)
    if isinstance(model, LoadedTraining | LoadedFollower):
        return TrainingDesk(model, link, activity)
    if isinstance(model, LoadedTensorModel):
        return TensorDesk(model, load, link, activity)
    if model.recipe is not None:
        return TensorDesk(model, load, link, activity)
    if (recipe := find_recipe(Path(load.path))).is_file():
        raise LoadError(f"{recipe} is for models of tensors, and this one reads text; move the recipe away")
    return TokenDesk(model, load, link, activity, identity)


class TokenDesk:
    """For a language model."""

    def __init__(
        self, model: LoadedModel, load: load_pb2.Load, link: Link, activity: Activity, identity: Identity | None
    ) -> None:
        _, limits = read_load(load)
        self._link = link
        self._model = model
        self._key = None
        if identity is not None and isinstance(model.session, KeepingSession):
            self._key = identity.key(model.session.kv_layout, model.session.limits)
        self._defaults = read_defaults(load, model.sampling)
        self.engine = Loop(model, limits, self._deliver, activity=activity)
        self._screening = Screening(self._send, self.engine.fail)
        self._adapters = AdapterDesk(self.engine, model.session, link)

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:  # noqa: ARG002 - of tensors only
        """Have a task run; one of tensors is refused."""
        try:
            submission = read_submission(submit, self._defaults)
        except UnsupportedInputError as error:
            self._deliver(StepOutput(ended=[Ended(handle=submit.handle, error=error)]))
        else:
            check = self._screening.submit(submission)
            self.engine.submit(submission if check is None else replace(submission, check=check))

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have a task forgotten."""
        self._screening.forget(cancel.handle)
        self.engine.cancel(cancel.handle, again=cancel.again)

    def moderate(self, rules: bytes, search_s: float) -> None:
        """Go by other rules from now on."""
        self._screening.go_by(rules, search_s)

    def hear(self, verdict: moderation_pb2.Verdict) -> None:
        """Take what a classifier says."""
        self._screening.hear(verdict.handle, verdict.number, found=verdict.found, failed=verdict.failed)

    def take(self, reply: ask_pb2.Reply) -> None:
        """No call runs here."""

    def adapt(self, order: adapter_pb2.Adapters | adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:
        """Have these adapters and no others, or hold one whose files are in memories."""
        if isinstance(order, adapter_pb2.Adapters):
            self._adapters.expect(order)
        else:
            self._adapters.load(order, memories)

    def answer(self, query: task_pb2.Query) -> None:
        """Have a question answered, in turn with tasks that are prepared."""
        self.engine.consult(lambda intake: self._answer(query, intake))

    def loaded(self) -> load_pb2.Loaded:
        """What the engine can do."""
        bounds = self.engine.bounds
        return load_pb2.Loaded(
            max_tasks=bounds.rows,
            context_tokens=bounds.sequence_tokens,
            kv_tokens=bounds.kv_tokens,
            block_tokens=0 if bounds.whole_prompts else bounds.block_tokens,
            sampling_defaults=self._model.sampling.numbers,
        )

    def keep(self, order: wire.Stop | prefix_pb2.Keep) -> None:
        """Keep the prefix cache, as far as it may be."""
        if isinstance(order, wire.Stop):
            self._keep(order, self.engine.keeping)
        else:
            self.engine.see_to_prefixes(partial(self._keep, order))

    def _keep(self, order: wire.Stop | prefix_pb2.Keep, keeping: Keeping) -> None:
        kept = NO_IDENTITY
        if self._key is not None:
            kept = keeping.export(self._key, most_bytes=order.keep_bytes, most_s=order.keep_seconds)
        frame = wire.WorkerFrame(kept=prefix_pb2.Kept(tokens=kept.tokens, why_not=kept.why_not))
        self._link.send(frame, () if kept.memory is None else (kept.memory,))

    def adopt(self, memories: Sequence[Memory]) -> None:
        """Have the prefix cache found again that is in the only memory."""
        (memory,) = memories
        if self._key is None:
            self._tell_adopted(NO_IDENTITY)
        else:
            key = self._key
            self.engine.see_to_prefixes(lambda keeping: keeping.take_in(memory, key, self._tell_adopted))

    def _tell_adopted(self, found: Kept) -> None:
        self._link.send(wire.WorkerFrame(adopted=prefix_pb2.Adopted(tokens=found.tokens, why_not=found.why_not)))

    def _answer(self, query: task_pb2.Query, intake: Intake) -> None:
        self._link.send(answer_frame(intake, query))

    def _deliver(self, output: StepOutput) -> None:
        self._screening.deliver(output)

    def _send(self, output: StepOutput) -> None:
        self._link.send(step_frame(output))


class TensorDesk:
    """For a model of tensors, and for one that writes text of what it is given as tensors."""

    def __init__(
        self, model: LoadedTensorModel | LoadedModel, load: load_pb2.Load, link: Link, activity: Activity
    ) -> None:
        self._link = link
        self._lacking = _lacks_tokenizer(Path(load.path))
        self._delay_s, self._most_batch = 0.0, 1
        loop: TensorLoop | Dictation
        if isinstance(model, LoadedTensorModel):
            loop = TensorLoop(model, read_tensor_limits(load.limits), self._deliver, activity=activity)
            self._delay_s, self._most_batch = loop.delay_s, loop.most_batch
            recipe = model.recipe or read_recipe(Path(load.path))
        else:
            recipe = read_recipe(Path(load.path)) or model.recipe or Recipe(where=load.path)
            loop = Dictation(model, recipe, read_load(load)[1], self._deliver, activity=activity)
        self._places = loop.places
        self.engine: TensorLoop | Dictation | RecipeEngine = loop
        self._signature = loop.signature
        if recipe is not None and recipe.written is not None and isinstance(model, LoadedTensorModel):
            raise LoadError(
                f"{recipe.where}: output {recipe.written.name!r} is written by a decoder; this model has none"
            )
        if recipe is not None:
            preparation = Preparation(recipe, loop.signature, read_recipe_limits(load.limits))
            self._signature = preparation.signature
            self.engine = RecipeEngine(loop, preparation, self._deliver, threads=min(count_cores(), PREPARING))

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:
        """Have a task run; one of text is refused."""
        try:
            self.engine.submit(read_request(submit, memories, lacking=self._lacking))
        except InferdError as error:
            self._refuse(submit.handle, error)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("a task could not be taken in")
            self._refuse(submit.handle, InternalError(f"the inputs cannot be prepared: {last_line(error)}"))

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have a task forgotten."""
        self.engine.cancel(cancel.handle, again=cancel.again)

    def moderate(self, rules: bytes, search_s: float) -> None:
        """Rules look at texts of language models."""

    def hear(self, verdict: moderation_pb2.Verdict) -> None:
        """Nobody was asked."""

    def take(self, reply: ask_pb2.Reply) -> None:
        """No call runs here."""

    def adapt(self, order: adapter_pb2.Adapters | adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:  # noqa: ARG002 - of texts only
        """Refuse an adapter: they are for language models."""
        if isinstance(order, adapter_pb2.LoadAdapter):
            self._link.send(refuse_adapter(order))

    def answer(self, query: task_pb2.Query) -> None:
        """Refuse a question: there are no tokens."""
        error = UnsupportedInputError(
            "the model turns tensors into tensors and has no tokens; GetModelSignature tells what it takes"
            + self._lacking,
            field="spec.model",
        )
        self._link.send(wire.WorkerFrame(answer=task_pb2.Answer(query_id=query.query_id, failure=failure(error))))

    def loaded(self) -> load_pb2.Loaded:
        """What the engine can do."""
        signature = write_signature(self._signature, most_batch=self._most_batch, delay_s=self._delay_s)
        return load_pb2.Loaded(max_tasks=self._places, signature=signature)

    def keep(self, order: wire.Stop | prefix_pb2.Keep) -> None:
        """There is no prefix cache."""

    def adopt(self, memories: Sequence[Memory]) -> None:
        """There is no prefix cache."""

    def _refuse(self, handle: int, error: InferdError) -> None:
        self._deliver(TensorResult(ended=[Ended(handle=handle, error=error)]))

    def _deliver(self, result: TensorResult) -> None:
        for frame, memories in tensor_step_frames(result):
            self._link.send(frame, memories)


def _lacks_tokenizer(path: Path) -> str:
    """Why a model of tensors reads no text, where its folder shows that; else ""."""
    if not path.is_dir() or (path / TOKENIZER).is_file():
        return ""
    return f". Its folder has no {TOKENIZER}, which an encoder's must have for texts to be embedded"
