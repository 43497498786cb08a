"""What stands between the frames of the link and the engine of trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.engine.function.call import CallResult
from inferd.engine.token.output import Ended
from inferd.engine.training.backend import LoadedTraining
from inferd.engine.training.drives import Drive
from inferd.engine.training.following import FollowerLoop
from inferd.engine.training.loop import TrainingLoop
from inferd.errors import UnsupportedInputError
from inferd.worker.adapters import refuse_adapter
from inferd.worker.frames import ended_message, failure
from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.training.following import LoadedFollower
    from inferd.shared import Memory
    from inferd.worker.link import Link


class TrainingDesk:
    """For a training, or who follows one; see `inferd.worker.desk.Desk`."""

    def __init__(self, training: LoadedTraining | LoadedFollower, link: Link, activity: Activity) -> None:
        self._link = link
        self._description = training.description.architecture
        self.engine: TrainingLoop | FollowerLoop
        if isinstance(training, LoadedTraining):
            self.engine = TrainingLoop(training, self._deliver, activity=activity)
        else:
            self.engine = FollowerLoop(training, self._deliver, activity=activity)

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:  # noqa: ARG002 - of tensors only
        """Have the training brought to its end; any other task is refused."""
        if submit.work.WhichOneof("kind") != "train":
            self._deliver(CallResult(ended=[Ended(handle=submit.handle, error=_no_training("spec.model"))]))
            return
        train = submit.work.train
        self.engine.submit(
            Drive(
                handle=submit.handle,
                checkpoint_s=train.checkpoint_s,
                report_s=train.report_s,
                curve_steps=train.curve_steps,
                disk_bytes=train.disk_bytes,
                lease_id=submit.lease_id,
                fencing_token=submit.fencing_token,
                rank=train.rank,
                ranks=train.ranks or 1,
                address=train.address,
                meeting=train.meeting,
                join_s=train.join_s,
            )
        )

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have no more steps done."""
        self.engine.cancel(cancel.handle, again=cancel.again)

    def moderate(self, rules: bytes, search_s: float) -> None:
        """Rules look at texts of language models."""

    def adapt(self, order: adapter_pb2.Adapters | adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:  # noqa: ARG002 - of texts only
        """Refuse an adapter: they are for language models."""
        if isinstance(order, adapter_pb2.LoadAdapter):
            self._link.send(refuse_adapter(order))

    def hear(self, verdict: moderation_pb2.Verdict) -> None:
        """Nobody was asked."""

    def take(self, reply: ask_pb2.Reply) -> None:
        """No call runs here."""

    def answer(self, query: task_pb2.Query) -> None:
        """Refuse a question: there are no tokens."""
        told = failure(_no_training("model"))
        self._link.send(wire.WorkerFrame(answer=task_pb2.Answer(query_id=query.query_id, failure=told)))

    def loaded(self) -> load_pb2.Loaded:
        """What the engine can do."""
        return load_pb2.Loaded(max_tasks=self.engine.places, description=self._description)

    def keep(self, order: wire.Stop | prefix_pb2.Keep) -> None:
        """There is no prefix cache."""

    def adopt(self, memories: Sequence[Memory]) -> None:
        """There is no prefix cache."""

    def _deliver(self, result: CallResult) -> None:
        frame = wire.WorkerFrame()
        step = frame.step
        step.seconds = result.seconds
        for handle, piece in result.pieces:
            written = step_pb2.CallPiece(json=piece.decode()).SerializeToString()
            step.tensors.add(handle=handle, outputs=written)
        step.ended.extend(map(ended_message, result.ended))
        self._link.send(frame)


def _no_training(field: str) -> UnsupportedInputError:
    return UnsupportedInputError(
        "it is a training under way, which answers nobody; ask the model that came of it, once it has ended",
        field=field,
    )
