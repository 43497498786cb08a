"""A run as it is kept: what is to be run, for whom, and how it ended."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from inferd.core.dataset import Source
from inferd.core.lifecycle import terminal
from inferd.core.pipeline import PIPELINE_TABLE, PipelineFormat, PipelineState
from inferd.core.priority import Priority
from inferd.errors import InferdError
from inferd.runtime.pipelines.running import Ended
from inferd.store.store import Kind, Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.ids import LeaseId, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A run. Times are of the calendar, in seconds.

    Attributes:
        number: Rises with each run.
        written: The pipeline, as the wire has it.
        created, expires, ended: When it was accepted, expires unless it has ended, and ended.
        blob: The digest of the blob that is its input; "" for none.
        format: What that blob is, where there is one.
        who, roles, key_id: Who made it, and by which key, for what calls of functions ask.
        dataset: The dataset that is its input, by name, version and digest; None for none.
        size_bytes: Of all that its items gave, once it has ended.
        usage: Tasks and tokens, once it has ended.
        allows, denies: Patterns of the models that calls of functions may ask, and of those that they may not.
    """

    run_id: str
    tenant: Tenant
    number: int
    written: bytes = field(repr=False)
    created: float
    expires: float
    priority: Priority
    lease_id: LeaseId
    seed: int
    labels: Mapping[str, str]
    request_id: str = ""
    fingerprint: str = ""
    blob: str = ""
    format: PipelineFormat = PipelineFormat.TEXT
    state: PipelineState = PipelineState.RUNNING
    ended: float | None = None
    error: Mapping[str, Any] | None = None
    output: Ended | None = None
    size_bytes: int = 0
    usage: tuple[int, int, int] = (0, 0, 0)
    allows: tuple[str, ...] = ()
    denies: tuple[str, ...] = ()
    dataset: Source | None = None
    who: str = ""
    roles: tuple[str, ...] = ()
    key_id: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return terminal(PIPELINE_TABLE, self.state)

    @property
    def holder(self) -> str:
        """As the holder of its blob, and of its dataset."""
        return f"pipeline run {self.run_id}"

    def put(self) -> Put:
        """Its record."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain |= {
            "written": base64.b85encode(self.written).decode(),
            "state": self.state.value,
            "format": self.format.value,
            "priority": self.priority.value,
            "labels": dict(self.labels),
            "output": None if self.output is None else asdict(self.output),
            "dataset": None if self.dataset is None else asdict(self.dataset),
        }
        return Put(self.tenant, Kind.PIPELINE, self.run_id, json.dumps(plain, separators=(",", ":")).encode())

    @classmethod
    def read(cls, value: bytes) -> Order:
        """What was put.

        Raises:
            ValueError, TypeError, KeyError: It is not.
        """
        plain = json.loads(value)
        output, dataset = plain["output"], plain.get("dataset")
        return cls(
            **{
                **plain,
                "written": base64.b85decode(plain["written"]),
                "state": PipelineState(plain["state"]),
                "format": PipelineFormat(plain["format"]),
                "priority": Priority(plain["priority"]),
                "output": None if output is None else Ended(**output),
                "usage": tuple(plain["usage"]),
                "allows": tuple(plain.get("allows", ())),  # kernels before this one did not write it
                "denies": tuple(plain.get("denies", ())),
                "dataset": None if dataset is None else Source(**dataset),
                "roles": tuple(plain.get("roles", ())),
            }
        )

    def failed(self, error: InferdError, step: str, index: int) -> Order:
        """It, with why it failed, as whoever asks may know it."""
        message = (
            f"step {step!r}, item {index}: {error.outside or error.message}" if step else error.outside or error.message
        )
        facts = {**error.metadata, "step": step, "index": str(index)} if step else error.metadata
        if error.outside:
            facts = {name: facts[name] for name in ("step", "index", "model", "task_id") if name in facts}
        return replace(
            self,
            error={
                "reason": error.reason,
                "code": error.code,
                "message": message,
                "metadata": dict(facts),
                "field": error.field,
            },
        )

    def why(self) -> InferdError | None:
        """Why it failed; None where it has not."""
        if self.error is None:
            return None
        made = InferdError(self.error["message"], metadata=self.error["metadata"], field=self.error["field"])
        made.reason, made.code = self.error["reason"], self.error["code"]
        return made
