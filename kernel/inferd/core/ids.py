"""Ids. Each is given by the driver, so that the core stays deterministic."""

from typing import NewType

TaskId = NewType("TaskId", str)
InstanceId = NewType("InstanceId", str)
ModelName = NewType("ModelName", str)
Tenant = NewType("Tenant", str)
DEFAULT_TENANT = Tenant("default")
