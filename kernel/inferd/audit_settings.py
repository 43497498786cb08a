"""The settings of the audit trail: what is in it, how often it is signed, and how long it is kept."""

import json
from functools import reduce
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds, Times

SECTION_BYTES = 8  # of the keyed hash of a part of the configuration
PLAIN = (
    *("audit.reads", "audit.on_failure", "audit.checkpoint_s", "audit.retention_s", "audit.bytes"),
    *("auth.required", "auth.local_roles", "store.sealing", "workers.sandbox"),
)
"""Settings of which the trail tells the value: they say what holds its kernel, and the trail itself."""


class Audit(BaseModel):
    """Who did what, with which decision. Changes, runs, refusals and the ends of tasks are always in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reads: bool = Field(False, description="whether calls that only read are in it, too; those that are denied are")
    on_failure: Literal["refuse", "serve"] = Field(
        "serve",
        description="what becomes of tasks and other calls while the trail cannot be written: they are refused, or "
        "served, and a gap is marked if more than `pending_entries` come meanwhile; changes of administrators are "
        "always refused",
    )
    interval_s: Seconds = Field(
        1.0, ge=0, description="entries are written with whatever else is, at the latest so long after they were made"
    )
    checkpoint_entries: int = Field(1000, ge=2, le=1_000_000, description="lines between two checkpoints at most")
    checkpoint_s: Seconds = Field(
        60.0, gt=0, description="a line that no checkpoint has signed for so long is signed, in seconds"
    )
    retention_s: Days = Field(
        31_536_000.0,
        ge=86_400.0,
        description="how long entries are kept, in seconds: a year; a day at least, so that nobody lets go at once of "
        "what is told of him",
    )
    bytes: int = Field(
        4 << 30, ge=1 << 20, description="what is kept of the trail, in bytes; beyond it the oldest entries are cut"
    )
    memory_bytes: int = Field(
        8 << 20, ge=1 << 16, description="the same in a kernel without a store, whose trail ends with it"
    )
    pending_entries: int = Field(
        10_000, ge=100, description="entries that wait to be written; more are lost, which is marked as a gap"
    )
    refusals_per_s: Times = Field(
        100.0,
        ge=1,
        description="calls that are denied or refused are told one by one up to so many a second, twice as many at "
        "once; of others their number is",
    )
    key_file: Path | None = Field(
        None,
        description="the key that signs checkpoints (Ed25519, PEM), made at the first start; default: audit.key in "
        "state_dir; its public half stands beside it, as .pub",
    )


def told_settings(settings: BaseModel, key: bytes) -> dict[str, object]:
    """What the trail tells of a configuration when a kernel starts with it.

    Args:
        settings: All of it.
        key: Hashes what may be secret, so that nobody without it can try what it might be.
    """
    parts = {
        name: blake2b(json.dumps(part, sort_keys=True).encode(), key=key, digest_size=SECTION_BYTES).hexdigest()
        for name, part in settings.model_dump(mode="json", exclude_defaults=True).items()
    }
    plain = {path: reduce(getattr, path.split("."), settings) for path in PLAIN}
    told = {path: value if isinstance(value, (bool, int, str)) else f"{value}" for path, value in plain.items()}
    return {"settings": told, "configuration": parts}
