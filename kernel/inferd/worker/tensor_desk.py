"""The desk for models of tensors, and for what has a recipe; see `inferd.worker.desk`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.engine.cause import last_line
from inferd.engine.recipe.dictation import Dictation
from inferd.engine.recipe.engine import RecipeEngine
from inferd.engine.recipe.preparation import Preparation
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import TensorResult
from inferd.engine.token.output import Ended
from inferd.errors import InferdError, InternalError, UnsupportedInputError, is_failure
from inferd.plugin import LoadedTensorModel, LoadError
from inferd.plugin.host import count_cores
from inferd.plugin.recipe import Recipe
from inferd.plugin.recipe_file import read_recipe
from inferd.worker.adapters import refuse_adapter
from inferd.worker.frames import failure, read_load
from inferd.worker.tensor_frames import (
    read_recipe_limits,
    read_request,
    read_tensor_limits,
    tensor_step_frames,
    write_signature,
)
from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.plugin import LoadedModel
    from inferd.shared import Memory
    from inferd.worker.link import Link

PREPARING: Final = 4  # threads that prepare requests, at most
TOKENIZER: Final = "tokenizer.json"
_log = logging.getLogger(__name__)


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
