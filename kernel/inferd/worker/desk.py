"""What stands between the frames of the link and an engine: one desk for each kind of session.

What a desk needs is imported with it: workers that need few of them load their models sooner.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.core import function, training
from inferd.plugin import LoadedTensorModel, LoadError
from inferd.plugin.recipe_file import find_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.engine import Engine
    from inferd.engine.function.backend import LoadedFunctions
    from inferd.engine.training.backend import LoadedTraining
    from inferd.engine.training.following import LoadedFollower
    from inferd.plugin import LoadedModel
    from inferd.shared import Memory
    from inferd.worker.identity import Identity
    from inferd.worker.link import Link
    from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, task_pb2
    from inferd_api.worker.v1 import worker_pb2 as wire

TRAININGS: Final = (training.LOADER, training.FOLLOWER)
OWN: Final = (function.LOADER, *TRAININGS)
"""Loaders whose models are ours, and no plugin's."""


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


def fetch_desk(loader: str) -> None:
    """Import the desk for models of a plugin beside its `Backend.load`, which mostly computes or waits for files."""
    if loader not in OWN:
        Thread(target=_import_desk, name="desk", daemon=True).start()


def _import_desk() -> None:
    with suppress(ImportError):  # `make_desk` says so, too
        import_module("inferd.worker.token_desk")


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
    given: Any = model  # the loader says what it is
    if load.loader == function.LOADER:
        from inferd.worker.function_desk import FunctionDesk  # noqa: PLC0415 - as is said above; so are the others

        return FunctionDesk(given, link, activity)
    if load.loader in TRAININGS:
        from inferd.worker.training_desk import TrainingDesk  # noqa: PLC0415

        return TrainingDesk(given, link, activity)
    if isinstance(given, LoadedTensorModel) or given.recipe is not None:
        from inferd.worker.tensor_desk import TensorDesk  # noqa: PLC0415

        return TensorDesk(given, load, link, activity)
    if (recipe := find_recipe(Path(load.path))).is_file():
        raise LoadError(f"{recipe} is for models of tensors, and this one reads text; move the recipe away")
    from inferd.worker.token_desk import TokenDesk  # noqa: PLC0415

    return TokenDesk(given, load, link, activity, identity)
