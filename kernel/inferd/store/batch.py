"""Writes for a server: many rows in few statements, so that a batch costs no round trip for each of its parts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from inferd.store.codec import Codec
from inferd.store.store import Append, Drop, Put, Write
from inferd.store.values import place_of

BATCH_WRITES = 1000
BATCH_BYTES = 8 << 20

Name = tuple[str, str, str]
"""Tenant, kind and key."""


@dataclass(slots=True, eq=False)
class Batch:
    """What some writes come to, done in this order: drops, then records, then pieces. One writer: `batches`.

    Attributes:
        dropped: Whose pieces go, and whether the record goes, too.
        records: The value of each record, as it is kept.
        pieces: Those of each, by number, as they are kept.
        size_bytes: What the values take.
    """

    dropped: dict[Name, bool] = field(default_factory=dict)
    records: dict[Name, bytes] = field(default_factory=dict)
    pieces: dict[Name, dict[int, bytes]] = field(default_factory=dict)
    size_bytes: int = 0

    def add(self, write: Write, codec: Codec) -> None:
        """One write more, done after those before."""
        tenant, kind, key = write.tenant, write.kind.value, write.key
        name = tenant, kind, codec.write_key(tenant, kind, key)
        match write:
            case Put():
                self.records[name] = codec.write(place_of(tenant, kind, key), write.value)
            case Append(number=number):
                self.pieces.setdefault(name, {})[number] = codec.write(place_of(tenant, kind, key, number), write.value)
            case Drop(record=record):
                if record:
                    self.records.pop(name, None)
                self.pieces.pop(name, None)
                self.dropped[name] = record or self.dropped.get(name, False)
                return
        self.size_bytes += len(write.value)


def batches(writes: Iterable[Write], codec: Codec) -> Iterator[Batch]:
    """The writes in batches of a bounded size, in their order."""
    batch, count = Batch(), 0
    for write in writes:
        batch.add(write, codec)
        count += 1
        if count >= BATCH_WRITES or batch.size_bytes >= BATCH_BYTES:
            yield batch
            batch, count = Batch(), 0
    if count:
        yield batch
