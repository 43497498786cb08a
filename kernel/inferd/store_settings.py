"""The settings of the store: where it is, how long what is kept can be read, and how often is written."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from inferd.postgres_settings import Postgres
from inferd.spans import Days, Seconds


class Store(BaseModel):
    """Where the kernel keeps what outlives it: tasks that are detached, and the models that clients have created."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        "",
        repr=False,
        description="sqlite:/path of a file, postgresql://user@host:port/database (a password is better kept in "
        "~/.pgpass or PGPASSWORD), or memory: for nothing that outlives the kernel; default: kernel.sqlite in "
        "state_dir",
    )
    postgres: Postgres = Postgres()

    @field_validator("url")
    @classmethod
    def _is_a_place(cls, url: str) -> str:
        kind = url.partition(":")[0] + ":" if ":" in url else "a name without a kind"  # the rest may have a password
        if url in {"", "memory:"} or url.startswith(("sqlite:/", "postgresql://", "postgres://")):
            return url
        if kind == "sqlite:":
            raise ValueError("a file is named by its absolute path, as sqlite:/var/lib/inferd/kernel.sqlite")
        raise ValueError(
            f"it begins with {kind} and names no store that there is; write sqlite:/var/lib/inferd/kernel.sqlite,"
            " postgresql://user@host:5432/database, or memory: for nothing that outlives the kernel"
        )

    sealing: Literal["on", "off"] = Field(
        "on",
        description="whether what is written is sealed, with keys of each tenant's own that the key below wraps; what "
        "is sealed stays so, and is read",
    )
    key_file: Path | None = Field(
        None,
        description="the key that wraps those of tenants, made at the first start; default: store.key beside the "
        "configuration, or in state_dir where that cannot be written. A credential of systemd's named inferd-store-key "
        "goes before it",
    )
    key_command: tuple[str, ...] = Field(
        (), description="a command that writes that key, in place of the file: its words; no shell is asked"
    )
    key_timeout_s: Seconds = Field(10.0, gt=0, description="that command is ended after so long")

    reseal_rows: int = Field(
        200,
        ge=1,
        description="values of older keys are sealed anew so many at a time; then what is to be written goes first for "
        "as long as that took",
    )

    retained_tasks: int = Field(
        10_000, ge=1, description="ended tasks that are kept and can still be read, in place of `limits.retained_tasks`"
    )
    retention_s: Days = Field(
        86_400.0, ge=0, description="how long they can be read, in seconds, in place of `limits.retention_s`"
    )
    held_tasks: int = Field(
        1000,
        ge=1,
        description="ended tasks of kernels before this one whose records are held once they were asked for; others "
        "are read from the store",
    )
    bytes: int = Field(
        64 << 30,
        ge=1,
        description="what may be stored of kept tasks, their outputs in blobs among it: beyond it the outputs of ended "
        "ones are deleted, the oldest of the tenant that has the most, and then new tasks are refused",
    )
    output_interval_s: Seconds = Field(
        0.1, ge=0, description="what kept tasks tell is written, and then seen, this long after it came at the latest"
    )
    retry_s: Seconds = Field(0.5, gt=0, description="a write that failed is tried again after so long")
    gap_s: Days = Field(
        86_400.0,
        ge=0,
        description="a clock that nobody confirms, and that says that more has passed since another boot of the "
        "system, is not believed: deadlines then age by the time since this boot began, in seconds",
    )
    schema_copies: int = Field(
        3,
        ge=1,
        description="copies that are left of what a store was before its schema became a newer one, of each "
        "older schema",
    )
    backups: int = Field(1, ge=1, description="BackupStore calls that are under way")
    backup_step_s: Seconds = Field(
        0.005,
        gt=0,
        description="a backup holds up what is to be written for so long at a time, in seconds, and then "
        "lets it go first for as long",
    )


def usual_key_file(config_folder: Path, state_dir: Path) -> Path:
    """Where the file lies that nobody names: beside the configuration, and so apart from what is kept.

    Where this user cannot write there, and none is there, it is in `state_dir`, as the pepper is.
    """
    apart, beside = config_folder / "store.key", state_dir / "store.key"
    if apart.exists() or not (beside.exists() or not _can_write(config_folder)):
        return apart
    return beside


def _can_write(folder: Path) -> bool:
    """Whether this user may make files there, the folder too where it is not there."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
