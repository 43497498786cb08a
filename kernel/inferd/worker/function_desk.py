"""What stands between the frames of the link and the engine of functions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.engine.function.call import Call, CallResult
from inferd.engine.function.loop import FunctionLoop
from inferd.engine.token.output import Ended
from inferd.errors import UnsupportedInputError
from inferd.shared import Part
from inferd.worker.adapters import refuse_adapter
from inferd.worker.frames import ended_message, failure
from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.function.backend import LoadedFunctions
    from inferd.shared import Memory
    from inferd.worker.link import Link


class FunctionDesk:
    """For a package of functions; see `inferd.worker.desk.Desk`."""

    def __init__(self, package: LoadedFunctions, link: Link, activity: Activity) -> None:
        self._link = link
        self._description = package.description.architecture
        self.engine = FunctionLoop(package.session, self._deliver, activity=activity)

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:
        """Have a call run; any other task is refused."""
        work = submit.work
        if work.WhichOneof("kind") != "call":
            self._deliver(CallResult(ended=[Ended(handle=submit.handle, error=_no_call("spec.input"))]))
            return
        self.engine.submit(
            Call(
                handle=submit.handle,
                name=work.call.name,
                version=work.call.version,
                given=work.call.input.encode(),
                each=work.call.each,
                priority=submit.priority,
                lease_id=submit.lease_id,
                fencing_token=submit.fencing_token,
                told=submit.continuation.outputs,
                alone=submit.alone,
                data=tuple(Part(memories[each.memory], each.start, each.size_bytes) for each in work.shared),
            )
        )

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have a call ended."""
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
        """A call hears what came of what it asked a model."""
        self.engine.reply(reply.handle, reply.number, _answer(reply))

    def answer(self, query: task_pb2.Query) -> None:
        """Refuse a question: there are no tokens."""
        told = failure(_no_call("model"))
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
        step.seconds, step.alone = result.seconds, result.alone or 0
        for handle, piece in result.pieces:
            written = step_pb2.CallPiece(json=piece.decode()).SerializeToString()
            step.tensors.add(handle=handle, outputs=written)
        for handle, number, asked in result.asks:
            step.asks.add(handle=handle, number=number, json=asked)
        for handle, fraction in result.progress.items():
            step.called.add(handle=handle, fraction=fraction)
        step.ended.extend(map(ended_message, result.ended))
        self._link.send(frame)


def _answer(reply: ask_pb2.Reply) -> bytes:
    """What a call is told, as JSON."""
    if not reply.HasField("failure"):
        return reply.json
    told = reply.failure
    error = {"reason": told.reason, "message": told.message, "metadata": dict(told.metadata)}
    return json.dumps({"error": error}).encode()


def _no_call(field: str) -> UnsupportedInputError:
    return UnsupportedInputError(
        "it is a package of functions, which are called: name one, as functions@clean, and give spec.call", field=field
    )
