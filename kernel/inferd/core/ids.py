"""Ids. Each is given by the driver, so that the core stays deterministic."""

from typing import NewType

TaskId = NewType("TaskId", str)
InstanceId = NewType("InstanceId", str)
ModelName = NewType("ModelName", str)
Tenant = NewType("Tenant", str)
LeaseId = NewType("LeaseId", str)
DeviceId = NewType("DeviceId", str)
HostId = NewType("HostId", str)
DEFAULT_TENANT = Tenant("default")
NO_LEASE = LeaseId("")
