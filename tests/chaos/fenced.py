"""What is recorded of an ordeal for `fencing`: by its server each commit of a store, and what streams say."""

from collections.abc import Sequence

from fencing import Accepted, Began, Entry, Fence, Over
from postgres_server import PostgresServer

from inferd_api.v1.task_pb2 import TaskEvent

STORE = "the store"
RECORD = """
    CREATE SCHEMA ordeal;
    CREATE TABLE ordeal.commits (number bigserial PRIMARY KEY, began boolean, epoch bigint, writer text);
    CREATE FUNCTION ordeal.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO ordeal.commits (began, epoch, writer) VALUES (NEW.epoch <> OLD.epoch, NEW.epoch,
        CASE WHEN NEW.written = OLD.written AND NEW.writer = OLD.writer THEN 'nobody' ELSE NEW.writer END);
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER UPDATE ON inferd.inferd_store FOR EACH ROW EXECUTE FUNCTION ordeal.note();
    INSERT INTO ordeal.commits (began, epoch, writer) SELECT true, epoch, writer FROM inferd.inferd_store;
"""
"""A line for each commit: whether an epoch begins with it, in which one it is, and whose; who ends one has none."""


def record_commits(server: PostgresServer, database: str) -> None:
    """Have the server record each commit of a store from now on."""
    with server.connect(database) as connection, connection.transaction():
        connection.execute(RECORD)  # type: ignore[arg-type] # ours


def commits(server: PostgresServer, database: str) -> list[Entry]:
    """The history of a store since `record_commits`, in the order in which it was decided."""
    with server.connect(database) as connection:
        rows = connection.execute("SELECT began, epoch, writer, number FROM ordeal.commits ORDER BY number").fetchall()
    return [
        Began(Fence.EPOCH, STORE, int(str(epoch)), str(writer))
        if began
        else Accepted(Fence.EPOCH, STORE, int(str(epoch)), str(writer), f"commit {number}")
        for began, epoch, writer, number in rows
    ]


def attempts(events: Sequence[TaskEvent]) -> list[Entry]:
    """What a stream says of who ran its task: its outputs are of the attempt that was told last."""
    history: list[Entry] = []
    last = 0
    for event in events:
        kind = event.WhichOneof("kind")
        if kind in {"started", "resumed"}:
            last = getattr(event, kind).attempt
            history.append(Began(Fence.ATTEMPT, event.task_id, last))
        elif kind == "suspended":
            history.append(Over(Fence.ATTEMPT, event.task_id))
        elif kind == "output":
            history.append(Accepted(Fence.ATTEMPT, event.task_id, last, what=f"output {event.sequence}"))
        elif kind == "finished":
            history.append(Over(Fence.ATTEMPT, event.task_id))
    return history
