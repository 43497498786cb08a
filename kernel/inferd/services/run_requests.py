"""The request for a task, from the wire; that of `RunTask` and that of an order of `RunTasks` are the same."""

import uuid

from inferd.core.task import TaskSpec
from inferd.runtime.front.caller import Caller
from inferd.services.calls import check_request_id
from inferd.services.task_values import read_spec
from inferd_api.v1 import task_service_pb2 as ts


def read_run(request: ts.RunTaskRequest, caller: Caller, *, prompt_limit_bytes: int) -> TaskSpec:
    """A new task of a caller.

    Raises:
        InferdError: As `read_spec`, or its `request_id` is too long.
    """
    check_request_id(request.request_id)
    return read_spec(
        request.spec,
        task_id=uuid.uuid4().hex,
        tenant=caller.tenant,
        deadline=caller.deadline,
        request_id=request.request_id,
        lease_id=caller.lease_id,
        prompt_limit_bytes=prompt_limit_bytes,
        detached=request.detach_on_disconnect,
    )
