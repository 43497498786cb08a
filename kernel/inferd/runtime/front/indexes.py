"""What may be done with indexes: they are made, grow by documents, lose some, and are forgotten."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inferd.core.document_index import Index, ReadDocument
from inferd.core.ids import ModelName
from inferd.errors import (
    BlobHeldError,
    BlobNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
    suggestion,
)
from inferd.index_errors import DocumentNotFoundError, IndexNotFoundError
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.index_adding import Adding, check_model
from inferd.runtime.front.index_tasks import IndexTasks
from inferd.runtime.index_memories import IndexMemories
from inferd.runtime.index_work import Asker
from inferd.runtime.kept_indexes import kept_indexes, write_index
from inferd.runtime.whole import Whole
from inferd.store.store import Drop, Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from inferd.core.document_index import IndexSpec, NewDocument, Segment
    from inferd.index_settings import Indexes as Chosen
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.bounds import Place
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.index_adding import Made
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.keeper import Keeper
    from inferd.runtime.shelf import Shelf
    from inferd.shared import Part

READ_CHARACTERS = 250_000  # of a document that are told at once


@dataclass(slots=True, eq=False)
class Entry:
    """An index as the kernel knows it. One writer: `Indexes`.

    Attributes:
        tenant: Whose.
        index: How it stands.
        proven: The model that gave vectors like those that it has, with its version, when it was looked at last.
        changing: Held by whoever changes it.
    """

    tenant: str
    index: Index
    proven: tuple[ModelName, int] | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def holder(self) -> str:
        """As what it holds blobs."""
        return f"index {self.index.spec.name}"


class Indexes:
    """Keeps indexes, each tenant's by name. One writer: the loop.

    A segment's blobs are held from before the record says that the index has it. What is in them is for functions.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        tasks: By which functions are called and vectors made.
        chosen: The settings.
        share: Of what is free, for a tenant (`scheduler.tenant_share`).
        wall: The time.
    """

    def __init__(
        self,
        driver: Driver,
        shelf: Shelf,
        tasks: Tasks,
        chosen: Chosen,
        *,
        share: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._shelf = shelf
        self._chosen = chosen
        self._wall = wall
        self.tasks = IndexTasks(tasks)
        self.memories = IndexMemories(chosen.memory_bytes)
        self._open = SharedBound("indexes.at_once", chosen.at_once, share, "searches, answers and changes of indexes")
        self._tenants: dict[str, dict[str, Entry]] = {}
        self._making = asyncio.Lock()
        self._left = Whole()
        if driver.keeper is not None:
            driver.keeper.forgets.append(self._forget_tenant)

    async def adopt(self) -> None:
        """Those that are kept are here again, and hold their blobs.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        if self._driver.keeper is None:
            return
        _, blobs = self.kept
        for tenant, index in await self._driver.keeper.read(kept_indexes):
            entry = self._tenants.setdefault(tenant, {})[index.spec.name] = Entry(tenant, index)
            for digest, _ in (each for segment in index.segments for each in segment.files):
                with suppress(BlobNotFoundError):  # a search tells
                    blobs.hold(tenant, digest, entry.holder)

    @property
    def kept(self) -> tuple[Keeper, Blobs]:
        """Where indexes are kept.

        Raises:
            StoreUnavailableError: Nothing is.
        """
        keeper, blobs = self._driver.keeper, blobs_of(self._driver.keeper)
        if keeper is None or blobs is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, and so has no indexes: its store.url is memory:; name a store",
                metadata={"cause": "memory:"},
            )
        return keeper, blobs

    def find(self, caller: Caller, name: str) -> Entry:
        """The index of this name.

        Raises:
            IndexNotFoundError: The tenant has none.
            StoreUnavailableError: Nothing is kept.
        """
        _ = self.kept
        names = self._tenants.get(caller.tenant, {})
        if (entry := names.get(name)) is not None:
            return entry
        facts = {"index": name[:128]}
        near = suggestion(name, [*names])
        if near:
            facts["suggestion"] = near
        hint = f"; did you mean {near!r}?" if near else "; list them: inferd index list"
        raise IndexNotFoundError(f"there is no index {name[:128]!r}{hint}", metadata=facts, field="index")

    def all(self, caller: Caller) -> list[Index]:
        """The tenant's indexes, by name."""
        _ = self.kept
        return [entry.index for _, entry in sorted(self._tenants.get(caller.tenant, {}).items())]

    def place(self, caller: Caller) -> Place:
        """One call of a tenant works with an index, until the block ends that is to follow.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        return self._open.place(caller.tenant)

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()

    async def create(self, caller: Caller, spec: IndexSpec) -> Index:
        """An index without documents; the one that there is, where it is made for the same.

        Raises:
            InvalidFieldError: There is one of this name that is made for something else.
            ModelNotFoundError: There is no such model.
            LimitExceededError: There are too many.
            StoreUnavailableError: It cannot be kept.
        """
        self._driver.check_open()
        _ = self.kept
        if spec.model:
            await self._shelf.look_for(ModelName(spec.model))
            self._driver.views.model(ModelName(spec.model))
        return await self._left.do(self._create(caller.tenant, spec))

    async def _create(self, tenant: str, spec: IndexSpec) -> Index:
        keeper, _ = self.kept
        async with self._making:
            names = self._tenants.setdefault(tenant, {})
            if (known := names.get(spec.name)) is not None:
                if known.index.spec == spec:
                    return known.index
                raise InvalidFieldError(
                    f"there is an index {spec.name!r} that is made for something else; take another name, or delete it"
                    f" first: inferd index rm {spec.name}",
                    field="spec.name",
                )
            self._check_count(len(names), "tenant_count", self._chosen.tenant_count)
            self._check_count(sum(map(len, self._tenants.values())), "all_count", self._chosen.all_count)
            now = self._wall()
            index = Index(spec=spec, created=now, updated=now)
            await keeper.keep_records([write_index(tenant, index)])
            names[spec.name] = Entry(tenant, index)
            return index

    def _check_count(self, have: int, name: str, most: int) -> None:
        if have >= most:
            raise LimitExceededError(
                f"there are {have} indexes and indexes.{name} is {most}; delete some",
                metadata={"bound": f"indexes.{name}", "value": str(have + 1), "limit": str(most)},
            )

    async def add(
        self,
        caller: Caller,
        name: str,
        documents: Sequence[NewDocument],
        tell: Callable[[int, int], Awaitable[None]],
    ) -> tuple[Index, int]:
        """Add documents or replace them, all or none; the index then, and how many were there before.

        Args:
            caller: Who adds.
            name: Of the index.
            documents: They, each id once.
            tell: Is given how many chunks they have, and of how many there are vectors.

        Raises:
            IndexNotFoundError: There is none.
            InvalidFieldError: A document is wrong; it is named.
            LimitExceededError: They are too large, or the index then is.
            InferdError: A task failed, or they cannot be kept.
        """
        self._driver.check_open()
        entry = self.find(caller, name)
        with self.place(caller):
            async with self.cut_short():
                asker = Asker(caller, name)
                await self.prove(entry, asker)
                adding = Adding(self.kept[1], self.tasks, self._chosen, asker, entry.index, tell)
                made = await adding.make(documents)
                return await self._left.do(self._commit(caller, entry, documents, made))

    async def _commit(
        self, caller: Caller, entry: Entry, documents: Sequence[NewDocument], made: Made
    ) -> tuple[Index, int]:
        """Have an index have what was made."""
        async with entry.changing:
            self._check_there(caller, entry)
            adding = Adding(self.kept[1], self.tasks, self._chosen, Asker(caller, entry.index.spec.name), entry.index)
            adding.check_room(made)
            if len(entry.index.segments) >= self._chosen.segments:
                await self._merge(caller, entry)
                replace(adding, index=entry.index).check_segments()
            gone = await self._rows(caller, entry, [each.id for each in documents])
            segment = await adding.keep(made, entry.holder)
            index = entry.index
            new = replace(index, segments=(*_without(index.segments, gone), segment), width=made.width or index.width)
            await self._put(entry, new, unless=(segment,))
            return entry.index, len(gone)

    async def delete_documents(self, caller: Caller, name: str, ids: Sequence[str]) -> tuple[Index, int]:
        """Forget documents; the index then, and how many of them were there.

        Raises:
            IndexNotFoundError: There is none.
            InferdError: The function failed that looks for them, or that cannot be kept.
        """
        self._driver.check_open()
        entry = self.find(caller, name)
        with self.place(caller):
            return await self._left.do(self._delete_documents(caller, entry, ids))

    async def _delete_documents(self, caller: Caller, entry: Entry, ids: Sequence[str]) -> tuple[Index, int]:
        async with entry.changing:
            self._check_there(caller, entry)
            gone = await self._rows(caller, entry, ids)
            if gone:
                await self._put(entry, replace(entry.index, segments=_without(entry.index.segments, gone)))
            return entry.index, len(gone)

    async def _rows(self, caller: Caller, entry: Entry, ids: Sequence[str]) -> list[tuple[int, int]]:
        """Of documents that are there, their segments and rows."""
        segments = entry.index.segments
        if not segments:
            return []
        parts = await self.parts(entry, segments)
        pieces = await self.tasks.call(
            Asker(caller, entry.index.spec.name),
            "retrieval_find",
            parts,
            ids=list(ids),
            vectors=bool(entry.index.width),
            dead=[list(each.dead) for each in segments],
        )
        return [(int(segment), int(row)) for piece in pieces for segment, row in piece]

    async def _merge(self, caller: Caller, entry: Entry) -> None:
        """Make some segments one."""
        adding = Adding(self.kept[1], self.tasks, self._chosen, Asker(caller, entry.index.spec.name), entry.index)
        places = adding.mergeable()
        if not places:
            return
        merged = [entry.index.segments[place] for place in places]
        made = await adding.merge(merged, await self.parts(entry, merged))
        segment = await adding.keep(made, entry.holder)
        left = [each for place, each in enumerate(entry.index.segments) if place not in places]
        await self._put(entry, replace(entry.index, segments=(segment, *left)), unless=(segment,))

    async def _put(self, entry: Entry, index: Index, *, unless: Sequence[Segment] = ()) -> None:
        """Keep how an index stands from now on, then let go what it had; blobs of `unless` are let go if that fails."""
        keeper, _ = self.kept
        alive = tuple(each for each in index.segments if len(each.dead) < each.documents)
        index = replace(index, segments=alive, version=index.version + 1, updated=self._wall())
        try:
            await keeper.keep_records([write_index(entry.tenant, index)])
        except BaseException:
            await self._let_go(entry, unless)
            raise
        kept = {each.digest for each in alive}
        before, entry.index = entry.index, index
        await self._let_go(entry, [each for each in (*before.segments, *unless) if each.digest not in kept])

    async def _let_go(self, entry: Entry, segments: Sequence[Segment]) -> None:
        """Blobs that nobody else holds go, too; what is left of those is forgotten as blobs are."""
        _, blobs = self.kept
        self.memories.drop(entry.tenant, segments)
        for digest, _ in (each for segment in segments for each in segment.files):
            with suppress(BlobHeldError, BlobNotFoundError, StoreUnavailableError):
                blobs.let_go(entry.tenant, digest, entry.holder)
                await blobs.remove(entry.tenant, digest)

    def _check_there(self, caller: Caller, entry: Entry) -> None:
        if self.find(caller, entry.index.spec.name) is not entry:
            raise IndexNotFoundError(
                f"index {entry.index.spec.name!r} was deleted meanwhile", metadata={"index": entry.index.spec.name}
            )

    async def prove(self, entry: Entry, asker: Asker) -> None:
        """See that the model is the one that made the vectors, once for each version of it.

        Raises:
            InvalidFieldError: It is another one.
            InferdError: A task failed.
        """
        index = entry.index
        if not index.width or not index.segments:
            return
        await self._shelf.look_for(ModelName(index.spec.model))
        model = self._driver.views.model(ModelName(index.spec.model))
        now = model.spec.name, model.serving.number
        if entry.proven != now:
            await check_model(index, self.tasks, asker, await self.parts(entry, index.segments[:1]))
            entry.proven = now

    async def parts(self, entry: Entry, segments: Sequence[Segment]) -> list[Part]:
        """The files of segments in memories.

        Raises:
            InferdError: One is not there, or is damaged.
        """
        return await self.memories.read(self.kept[1], entry.tenant, segments)

    async def read(self, asker: Asker, document_id: str, *, start: int, end: int | None) -> ReadDocument:
        """A document, with its text from `start` to `end`.

        Raises:
            IndexNotFoundError: There is none.
            DocumentNotFoundError: It has no such document.
            InferdError: It cannot be read now.
        """
        caller, name = asker.caller, asker.index
        entry = self.find(caller, name)
        with self.place(caller):
            async with self.cut_short():
                segments = entry.index.segments
                rows = await self._rows(caller, entry, [document_id])
                if not rows:
                    raise DocumentNotFoundError(
                        f"index {name!r} has no document {document_id[:80]!r}",
                        metadata={"index": name, "document_id": document_id[:256]},
                        field="document_id",
                    )
                ((place, row),) = rows
                told = await self.tasks.whole(
                    asker,
                    "retrieval_read",
                    (await self.parts(entry, segments[place : place + 1]))[:1],
                    row=row,
                    start=start,
                    end=min(end or start + READ_CHARACTERS, start + READ_CHARACTERS),
                )
                return ReadDocument(**told)

    async def delete(self, caller: Caller, name: str) -> None:
        """Forget an index.

        Raises:
            IndexNotFoundError: There is none.
            StoreUnavailableError: It cannot be forgotten now.
        """
        await self._left.do(self._delete(caller, name))

    async def _delete(self, caller: Caller, name: str) -> None:
        keeper, _ = self.kept
        entry = self.find(caller, name)
        async with entry.changing:
            self._check_there(caller, entry)
            await keeper.keep_records([Drop(entry.tenant, Kind.INDEX, name)])
            del self._tenants[entry.tenant][name]
            await self._let_go(entry, entry.index.segments)

    def _forget_tenant(self, tenant: str) -> None:
        """A tenant was shredded: its rows and its blobs are gone already."""
        self._tenants.pop(tenant, None)
        self.memories.forget(tenant)


def _without(segments: Sequence[Segment], gone: Sequence[tuple[int, int]]) -> tuple[Segment, ...]:
    """Segments in which some rows are dead, too."""
    rows: dict[int, set[int]] = {}
    for place, row in gone:
        rows.setdefault(place, set()).add(row)
    return tuple(
        replace(each, dead=tuple(sorted({*each.dead, *rows[place]}))) if place in rows else each
        for place, each in enumerate(segments)
    )
