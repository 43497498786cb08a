"""What is said of an error of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html).

A server's message may hold rows in its details; they are left out, and so is what could be a password.
"""

import psycopg

from inferd.errors import StoreUnavailableError
from inferd.store.passwords import hide_passwords
from inferd.store.store import UnwritableError

MESSAGE_CHARACTERS = 500
CAUSES = {
    "28": "it refuses the user or the password: see store.url, PGPASSWORD and ~/.pgpass",
    "3D000": "it has no such database; make it with createdb, or name another in store.url",
    "42501": "the user may not do this; let it own the schema, or GRANT CREATE ON DATABASE to it",
    "53100": "its disk is full; make room",
    "53300": "it has no connection left; raise its max_connections",
    "25006": "it cannot be written: it is a standby, or read-only",
    "57014": "it did not answer within store.postgres.answer_timeout_s",
    "55P03": "what is to be written is locked by another session for longer than store.postgres.answer_timeout_s",
    "57P": "it shuts down or starts",
    "XX001": "it is damaged: see the log of the server",
    "XX002": "one of its indexes is damaged; REINDEX it",
}
"""By the beginning of the error's SQLSTATE; the first that fits."""
UNWRITABLE = ("22", "23", "54")  # classes of errors of what is to be written


def unavailable(store: str, error: psycopg.Error, password: str | None = None) -> StoreUnavailableError:
    """An error of the driver, as it is told; `store` names the store to people."""
    state = error.sqlstate or ""
    fits = (text for beginning, text in CAUSES.items() if state.startswith(beginning))
    said = said_by(error, password)
    cause = next(fits, "it cannot be reached" if isinstance(error, psycopg.OperationalError) and not state else "")
    unwritable = state[:2] in UNWRITABLE or (isinstance(error, psycopg.DataError) and not state)
    return (UnwritableError if unwritable else StoreUnavailableError)(
        f"the store {store}: {cause} ({said})" if cause else f"the store {store}: {said}",
        metadata={"cause": f"{type(error).__name__}: {said}", **({"sqlstate": state} if state else {})},
        retry_after_s=1.0,
    )


def said_by(error: psycopg.Error, password: str | None = None) -> str:
    """The error in a line, without what it says of rows."""
    primary = error.diag.message_primary
    text = " ".join((primary or str(error)).split())[:MESSAGE_CHARACTERS]
    return hide_passwords(text, password) or type(error).__name__
