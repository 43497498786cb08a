"""`inferd store backup` and `restore`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from inferd.cli.amounts import counted, size
from inferd.cli.kernel import connected, reachable
from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.cli.store import logging_aside, opened, place_of
from inferd.core.key import KeyState
from inferd.errors import InferdError, words_of
from inferd.runtime.backups import Made, back_up_store
from inferd.runtime.blob_backups import Blobbed, folder_of, give_up, looked_at, taken_back
from inferd.runtime.clock import Clock
from inferd.runtime.kept_keys import read_key
from inferd.runtime.kept_leases import read_token, token_after, write_token
from inferd.runtime.kept_records import UNREADABLE, read_progress
from inferd.runtime.lease_records import read_lease
from inferd.runtime.restored_keys import CarriedKeys, carry_keys
from inferd.runtime.trail_opening import KEY, tell_of_store
from inferd.store.restoring import Before, Restored, prepared
from inferd.store.restoring import restore as restore_store
from inferd.store.sealing.sealed import Sealing
from inferd.store.store import DamagedError, Kind, MissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.core.audit import Said
    from inferd.store.store import Store
    from inferd.store.where import Where
    from inferd_client import Client


def backup(output: Output, address: str, path: Path, *, replace: bool, file: Path | None, url: str | None) -> None:
    """Copy what is kept into a file.

    Raises:
        CommandError: The kernel refuses it.
        InferdError: It cannot be done.
    """
    absolute = str(path.absolute())
    if file is None and url is None:
        with connected(address) as client:
            if reachable(client):
                _tell(output, _by_kernel(output, client, absolute, replace=replace), by="the kernel")
                return
    settings = read_settings()
    with opened(file, url) as store:
        root = settings.data_dir / "blobs"
        made = back_up_store(store, absolute, replaces=replace, step_s=settings.store.backup_step_s, root=root)
    _tell(output, made, by="this command")


def _by_kernel(output: Output, client: Client, path: str, *, replace: bool) -> Made:
    with output.status(f"the kernel copies what it keeps to {path}") as shown:
        for response in client.backup_store(path, replace=replace):
            if response.HasField("backup"):
                made = response.backup
                return Made(
                    path=made.path,
                    size_bytes=made.size_bytes,
                    made=made.make_time.ToNanoseconds() / 1e9,
                    store=made.store,
                    blobs=Blobbed(made.blobs, made.blob_bytes, made.missing_blobs, made.blob_folder),
                )
            shown(f"{size(response.done_bytes)} of {size(response.total_bytes)} are copied to {path}")
    raise CommandError("the kernel ended the call without a backup", reason="KERNEL_ENDED")


def _tell(output: Output, made: Made, *, by: str) -> None:
    if output.json:
        output.document(
            {
                "path": made.path,
                "size_bytes": made.size_bytes,
                "make_time": _time(made.made),
                "store": made.store,
                "by": by,
                **_blobs(made.blobs),
            }
        )
        return
    output.text(f"{made.path}: {size(made.size_bytes)}, a backup of {made.store} as it was at {_time(made.made)}")
    if made.blobs.folder:
        output.text(f"{made.blobs.folder} beside it: {_said(made.blobs)}")
    output.text("what is sealed in the store is sealed in the backup, which has not the key: keep a copy of that apart")


def _blobs(done: Blobbed) -> dict[str, object]:
    return {
        "blobs": done.count,
        "blob_bytes": done.size_bytes,
        "missing_blobs": done.missing,
        "blob_folder": done.folder or None,
    }


def _said(done: Blobbed) -> str:
    missing = f"; {done.missing} are missing, as their files are gone or damaged" if done.missing else ""
    return f"{counted(done.count, 'blob')} of {size(done.size_bytes)}{missing}"


def _time(made: float | None) -> str | None:
    return None if made is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made))


@dataclass(slots=True)
class _Standing:
    """What a backup has that goes on, and what does not. One writer: `_look`."""

    tasks: int = 0
    unfinished: int = 0
    leases: int = 0
    leases_over: int = 0
    models: int = 0
    keys: int = 0
    keys_over: int = 0
    rules: int = 0
    quotas: int = 0
    unreadable: int = 0

    @classmethod
    def of(cls, store: Store) -> _Standing:
        """What there is in a store."""
        clock, found = Clock(), cls()
        for record in store.records(Kind.PROGRESS):
            try:
                ended = read_progress(record.value).ended
            except UNREADABLE:
                found.unreadable += 1
                continue
            found.tasks += 1
            found.unfinished += not ended
        for record in store.records(Kind.LEASE):
            try:
                expires = read_lease(record.value, clock).expires
            except UNREADABLE:
                found.unreadable += 1
                continue
            found.leases += 1
            found.leases_over += expires <= clock.now()
        for record in store.records(Kind.KEY):
            try:
                state = read_key(record.value)[0].state(time.time())
            except UNREADABLE:
                found.unreadable += 1
                continue
            found.keys += 1
            found.keys_over += state is not KeyState.ACTIVE
        found.models, found.rules, found.quotas = (
            sum(1 for _ in store.records(kind)) for kind in (Kind.MODEL, Kind.RULE, Kind.QUOTA)
        )
        return found


def restore(
    output: Output, path: Path, *, check: bool, missing_blobs: bool, file: Path | None, url: str | None
) -> None:
    """Put a backup in the place of a store.

    Raises:
        CommandError: There is none; or blobs of it are missing and may not be: nothing was changed.
        typer.Exit: Blobs are missing beside one that is checked: exit code 1.
        StoreUnavailableError: A kernel has the store, or the backup cannot be used: nothing was changed.
    """
    place, standing, token, blobs, keys = place_of(file, url), _Standing(), 0, Blobbed(), CarriedKeys()
    root = read_settings().data_dir / "blobs"

    def prepare(store: Store, there: Before) -> None:
        nonlocal standing, token, blobs, keys
        blobs = looked_at(store, path) if check else taken_back(store, path, root)
        if blobs.missing and not (check or missing_blobs):
            raise _incomplete(path, blobs)
        keys = carry_keys(store, there.keys, time.time())
        standing = _Standing.of(store)
        known = [*_tokens(there.numbers), *_tokens({each.key: each.value for each in store.records(Kind.COUNT)})]
        token = token_after(*known, wall_s=time.time())
        store.write([write_token(token)])

    scratch = read_settings().state_dir
    try:
        with logging_aside():
            if check:
                with prepared(path, scratch, Sealing.of(place, reads=True)) as (store, made):
                    prepare(store, Before())
                    done = Restored(made=made, schema=store.opened_schema, store="", aside="")
            else:
                done = restore_store(path, place, prepare, scratch=scratch)
    except BaseException as error:  # noqa: BLE001 - it is raised
        give_up(blobs)
        raise _told(error) from None
    _tell_restored(output, path, done, standing, token, blobs, keys)
    if not check:
        _audit(output, path, place)
    if check and blobs.missing:
        raise typer.Exit(1)


def _audit(output: Output, path: Path, place: Where) -> None:
    """It is in the audit trail of this host's kernel, if it is its store; one that comes first tells its own key."""
    settings = read_settings()
    known = (settings.audit.key_file or settings.state_dir / KEY).exists()
    if not known or place.url != settings.store_place.url:
        return
    try:
        with opened(None, place.url) as store:
            said: Said = {"event": "store restored", "name": path.name}
            tell_of_store(settings.audit, store, settings.state_dir, said, is_own=True)
    except (InferdError, OSError) as error:
        output.note(f"the audit trail could not be told of it: {words_of(error)}")


def _incomplete(path: Path, blobs: Blobbed) -> CommandError:
    total = counted(blobs.count + blobs.missing, "blob")
    message = (
        f"{blobs.missing} of {total} of {path} are missing or damaged in {folder_of(path)} and on this host, and"
        " nothing was changed; bring that folder back, or restore without them: --missing-blobs"
    )
    return CommandError(message, reason="BLOBS_MISSING")


def _told(error: BaseException) -> BaseException:
    if isinstance(error, MissingError):
        return CommandError(error.message, reason="NO_STORE")
    if isinstance(error, DamagedError):
        return CommandError(error.message, reason="STORE_DAMAGED", metadata=error.metadata)
    return error


def _tokens(numbers: Mapping[str, bytes]) -> Iterator[int]:
    try:
        yield read_token(numbers)
    except UNREADABLE:
        return


def _tell_restored(  # noqa: PLR0917 - of one call
    output: Output, path: Path, done: Restored, standing: _Standing, token: int, blobs: Blobbed, keys: CarriedKeys
) -> None:
    if output.json:
        output.document(
            {
                "backup": str(path),
                "make_time": _time(done.made),
                "schema": done.schema,
                "path": done.store or None,
                "aside": done.aside or None,
                "tasks": standing.tasks,
                "unfinished_tasks": standing.unfinished,
                "leases": standing.leases,
                "leases_over": standing.leases_over,
                "models": standing.models,
                "keys": standing.keys,
                "keys_over": standing.keys_over,
                "rules": standing.rules,
                "quotas": standing.quotas,
                "unreadable": standing.unreadable,
                **_blobs(blobs),
                **({"fencing_tokens_above": str(token), **_key_facts(keys)} if done.store else {}),
            }
        )
        return
    when = f" of {_time(done.made)}" if done.made is not None else ""
    has = (
        f"{counted(standing.tasks, 'task')}, of which {standing.unfinished} go on from where they were,"
        f" {counted(standing.models, 'model')}, {counted(standing.leases, 'lease')}, of which"
        f" {standing.leases_over} are over, {counted(standing.keys, 'key')}, of which {standing.keys_over} hold no"
        f" longer, {counted(standing.rules, 'rule')} and {counted(standing.quotas, 'quota')}"
    )
    if standing.unreadable:
        unreadable = counted(standing.unreadable, "record")
        has += f"; {unreadable} cannot be read by this version, and its kernels leave out what cannot"
    if blobs.count or blobs.missing:
        has += f"; {_said(blobs)}"
    if not done.store:
        if blobs.missing:
            output.text(f"{path}: a backup{when} that is not whole, as blobs are missing in {folder_of(path)}: {has}")
        else:
            output.text(f"{path}: a whole backup{when} with {has}")
        return
    output.text(f"{done.store} is now the backup{when}: {has}")
    if done.aside:
        output.text(f"what was there before is {done.aside}")
    _tell_keys(output, standing, keys)


def _key_facts(keys: CarriedKeys) -> dict[str, object]:
    return {
        "revocations_known": keys.known,
        "revoked_keys": list(keys.revoked),
        "rotated_keys": list(keys.rotated),
        "strange_keys": list(keys.strange),
    }


def _tell_keys(output: Output, standing: _Standing, keys: CarriedKeys) -> None:
    """What holds again that held no longer, as far as is known; and what does not."""
    if keys.revoked:
        output.text(f"revoked since the backup, and so they stay: {', '.join(keys.revoked)}")
    if keys.rotated:
        output.text(f"rotated since the backup; their new credentials hold: {', '.join(keys.rotated)}")
    if standing.keys > standing.keys_over and not keys.known:
        output.text(
            "warning: keys that were revoked since the backup hold again, and credentials from before a rotation: the"
            " store that was there could not be read, or there was none; see inferd keys list, and: inferd keys revoke"
            " KEY"
        )
    if keys.strange:
        output.text(
            "warning: these keys hold, and the store that was there did not know them; if they were revoked long ago,"
            f" inferd keys revoke KEY: {', '.join(keys.strange)}"
        )
    output.text("keys, rules and quotas are those of the backup, whatever has changed since it was made")
