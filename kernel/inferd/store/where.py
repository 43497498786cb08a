"""Where a store is, and how long is waited for it."""

from typing import Protocol

from inferd.store.sealing.key_source import KeyPlace


class PostgresTimes(Protocol):
    """What it says of stores in PostgreSQL; each is described there (`inferd.postgres_settings`)."""

    @property
    def schema_name(self) -> str:
        """The schema of a database that is the store."""

    @property
    def connect_timeout_s(self) -> float:
        """How long is waited for a connection."""

    @property
    def answer_timeout_s(self) -> float:
        """How long is waited for an answer."""

    @property
    def lock_wait_s(self) -> float:
        """How long is waited for the end of who has the store."""

    @property
    def outcome_wait_s(self) -> float:
        """How long is tried to learn whether a write was done."""


class Where(KeyPlace, Protocol):
    """What the configuration says of a store (`inferd.config.Store`)."""

    @property
    def url(self) -> str:
        """`sqlite:/path`, `postgresql://…`, or `memory:` for none."""

    @property
    def schema_copies(self) -> int:
        """How many copies of each older schema are left."""

    @property
    def postgres(self) -> PostgresTimes:
        """Of a store in PostgreSQL: the schema and the times."""
