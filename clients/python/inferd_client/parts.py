"""Sets of tensors that come in several events: put together before anybody sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_api.v1.tensor_pb2 import InferOutput, Tensor


class Parts:
    """What has come of a set of one task. One writer: who reads its events."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._data: dict[str, list[bytes]] = {}

    def take(self, event: TaskEvent) -> TaskEvent | None:
        """The event with all of its set; None while more of it is to come."""
        if not self._tensors and not event.output.infer.more:
            return event
        given = event.output.infer
        for part in given.outputs:
            if part.name not in self._tensors:
                self._tensors[part.name] = part
                self._data[part.name] = []
            if part.WhichOneof("elements") == "data":
                self._data[part.name].append(part.data)
        if given.more:
            return None
        self._put_together(given)
        return event

    def forget(self) -> None:
        """The set comes again, from its first part."""
        self._tensors, self._data = {}, {}

    def _put_together(self, into: InferOutput) -> None:
        whole = []
        for name, tensor in self._tensors.items():
            if data := self._data.pop(name):
                tensor.data = b"".join(data)
            whole.append(tensor)
        self.forget()
        del into.outputs[:]
        into.outputs.extend(whole)
