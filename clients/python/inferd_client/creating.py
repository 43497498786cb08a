"""The request for a task that outlives its client."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING

from inferd_api.v1.task_service_pb2 import CreateTaskRequest
from inferd_client.channel import bounded_s
from inferd_client.claims import span

if TYPE_CHECKING:
    from inferd_api.v1.task_service_pb2 import RunTaskRequest
    from inferd_client.options import InferOptions, RunOptions


def create_request(run: RunTaskRequest, options: RunOptions | InferOptions) -> CreateTaskRequest:
    """The request that creates what another one would run; asked for again it is the same task.

    Raises:
        ValueError: `timeout_s` is out of range.
    """
    request_id = run.request_id or token_hex(16)
    return CreateTaskRequest(spec=run.spec, request_id=request_id, ttl=span(bounded_s(options.get("timeout_s"))))
