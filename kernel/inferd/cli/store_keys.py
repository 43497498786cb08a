"""`inferd store keys`: how the keys stand that seal what is kept, new ones, and tenants that nobody reads again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.cli.amounts import counted
from inferd.cli.kernel import connected, reachable
from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.cli.store import opened, place_of
from inferd.errors import BlobDamagedError, StoreUnavailableError
from inferd.runtime.blob_entry import read_left
from inferd.runtime.blob_sealing import remove_all
from inferd.runtime.driver_limits import prefix_folder
from inferd.runtime.opened_files import open_root
from inferd.runtime.prefix_files import PrefixFiles
from inferd.runtime.store_keys import KeysStanding
from inferd.runtime.trail_opening import tell_of_store
from inferd.store.blob_files import BlobFiles
from inferd.store.sealing.data_keys import Standing
from inferd.store.sealing.turning import rotate, rotate_wrapping, settle, shred, standing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.core.audit import Said
    from inferd.store.store import Store
    from inferd.store.where import Where
    from inferd_api.v1.store_key_pb2 import StoreKeys

KEPT_KEY = "the file has the keys before, too, for other stores and for backups; --forget leaves them out"


def status(output: Output, address: str, file: Path | None, url: str | None) -> None:
    """Tell how the keys stand: by the kernel while it runs, else of the store itself."""
    if file is None and url is None:
        with connected(address) as client:
            if reachable(client):
                _tell(output, _read(client.get_store_keys()), by="the kernel")
                return
    with opened(file, url, reads=True) as store:
        seals = place_of(file, url).sealing == "on"  # which it is not by who only reads
        _tell(output, replace(standing_of(store), sealing=seals), by="this command")


def turn(
    output: Output,
    address: str,
    file: Path | None,
    url: str | None,
    *,
    tenant: str | None,
    wrapping: bool,
    forget: bool,
) -> None:
    """Have new keys seal from now on, or a new one wrap them.

    Raises:
        CommandError: What is asked for does not go together.
    """
    if forget and not wrapping:
        raise CommandError("--forget is about the keys that wrap; name --wrapping, too", reason="USAGE")
    if wrapping and tenant is not None:
        raise CommandError("--wrapping and --tenant exclude each other: one key wraps those of all", reason="USAGE")
    if file is None and url is None:
        with connected(address) as client:
            if reachable(client):
                made = client.rotate_store_keys(tenant=tenant, wrapping=wrapping, forget=forget)
                _tell_turned(output, made.count, _read(made.keys), by="the kernel", wrapping=wrapping, forget=forget)
                return
    with opened(file, url) as store:
        place = place_of(file, url)
        _audit(store, place, "keys of the store rotated", tenant or "*", wrapping=int(wrapping), forget=int(forget))
        count = rotate_wrapping(store, forgets=forget) if wrapping else rotate(store, tenant)
        if not wrapping:
            _reseal(output, store)
        _tell_turned(output, count, standing_of(store), by="this command", wrapping=wrapping, forget=forget)


def _audit(store: Store, place: Where, event: str, tenant: str, **more: int) -> None:
    """It is in the audit trail before it is done."""
    settings = read_settings()
    said: Said = {"event": event, "name": tenant, **more}
    is_own = place.url == settings.store_place.url
    tell_of_store(settings.audit, store, settings.state_dir, said, is_own=is_own)


def _reseal(output: Output, store: Store) -> None:
    rows = read_settings().store.reseal_rows
    with output.status("what older keys sealed is sealed anew") as shown:
        for progress in store.resealing(rows):
            shown(f"{progress.looked} values were looked at, and {progress.done} are sealed anew")
        settle(store, _reseal_blobs(output, store, shown))


def _reseal_blobs(output: Output, store: Store, shown: Callable[[str], None]) -> set[str] | None:
    """Seal the files of blobs anew; the tenants of those that cannot be, or None where they are not here."""
    found, left = read_left(store), set[str]()
    if not found.entries:
        return left
    files = BlobFiles(read_settings().data_dir / "blobs" / found.folder, keys=store.keys)
    for number, entry in enumerate(found.entries):
        try:
            for _ in files.resealing(*entry.key, whole=entry.whole):
                shown(f"{number} of {len(found.entries)} blobs are sealed anew")
        except BlobDamagedError as error:
            left.add(entry.tenant)
            output.note(error.message)
        except StoreUnavailableError as error:
            output.note(f"files of blobs are not sealed anew, and older keys stay for them: {error.message}")
            return None
    return left


def drop(output: Output, address: str, tenant: str, file: Path | None, url: str | None, *, sure: bool) -> None:
    """Drop the keys of a tenant, and what they sealed: by the kernel while it runs, else in the store itself.

    Raises:
        CommandError: It was not said to be sure.
    """
    if not sure:
        raise CommandError(
            f"nobody will read again what is kept of tenant {tenant!r}, blobs and models too; name --yes to do that",
            reason="USAGE",
        )
    if file is None and url is None:
        with connected(address) as client:
            if reachable(client):
                gone = client.shred_tenant(tenant)
                facts = {"keys": gone.keys, "tasks": gone.tasks, "blobs": gone.blobs}
                _tell_dropped(output, tenant, facts, by="the kernel")
                return
    with opened(file, url) as store:
        folder = read_left(store).folder
        _audit(store, place_of(file, url), "tenant shredded", tenant)
        count = shred(store, tenant)
        settings = read_settings()
        PrefixFiles(prefix_folder(settings, store.name), most_bytes=0, keys=None).forget_all()
        if folder:
            root = open_root(settings.blobs.open_dir)
            files = BlobFiles(settings.data_dir / "blobs" / folder, keys=store.keys, opened=root)
            remove_all(files, tenant)
            files.models.sweep(frozenset())  # what a kernel that was killed has left open
    _tell_dropped(output, tenant, {"path": store.name, "keys": count}, by="this command")


def _tell_dropped(output: Output, tenant: str, facts: Mapping[str, str | int], *, by: str) -> None:
    if output.json:
        output.document({"tenant": tenant, **facts, "by": by})
        return
    ended = f" {counted(int(facts['tasks']), 'task')} of it forgotten." if facts.get("tasks") else ""
    output.text(
        f"{counted(int(facts['keys']), 'key')} of {tenant!r} dropped, and all that they sealed.{ended} Backups of"
        " before have them still, wrapped: remove those, or `inferd store keys rotate --wrapping --forget`, with which"
        " no backup of before opens"
    )


def _read(keys: StoreKeys) -> KeysStanding:
    return KeysStanding(
        sealing=keys.sealing,
        whole=keys.whole,
        resealing=keys.resealing,
        source=keys.source,
        wrapping=list(keys.wrapping),
        tenants=[
            Standing(each.tenant, each.number, each.create_time.seconds, each.keys, each.shredded)
            for each in keys.tenants
        ],
        progress={
            "values": keys.progress.values,
            "blobs": keys.progress.blobs,
            "of_blobs": keys.progress.of_blobs,
            "damaged": keys.progress.damaged,
        }
        if keys.HasField("progress")
        else {},
        unsealed=list(keys.unsealed_files),
    )


def _facts(standing: KeysStanding) -> dict[str, object]:
    return {
        "sealing": standing.sealing,
        "whole": standing.whole,
        "resealing": standing.resealing,
        "source": standing.source,
        "wrapping": list(standing.wrapping),
        "tenants": [
            {
                "tenant": each.tenant,
                "number": each.number,
                "create_time": _time(each.made) if each.number else None,
                "keys": each.keys,
                "shredded": each.shredded,
            }
            for each in standing.tenants
        ],
        "progress": dict(standing.progress) or None,
        "unsealed_files": list(standing.unsealed),
    }


def _time(made: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made))


def _tell(output: Output, standing: KeysStanding, *, by: str) -> None:
    if output.json:
        output.document({**_facts(standing), "by": by})
        return
    whole = "all that is kept is sealed" if standing.whole else "not all that is kept is sealed"
    output.text(f"what is written is {'' if standing.sealing else 'not '}sealed; {whole}")
    output.text(f"key {', '.join(standing.wrapping) or 'none'} of {standing.source} wraps those of tenants:")
    for each in standing.tenants:
        name = repr(each.tenant) if each.tenant else "of all"
        since = f"key {each.number} since {_time(each.made)}, of {each.keys}" if each.number else "no key"
        output.text(f"  {name}: {since}{'; others were shredded' if each.shredded else ''}")
    if standing.resealing:
        output.text("what older keys sealed is being sealed anew" + _how_far(standing.progress))
    for path in standing.unsealed:
        output.text(f"{path} was set aside before the store was sealed, and is not: remove it once you need it no more")


def _how_far(progress: Mapping[str, int]) -> str:
    if not progress:
        return ""
    damaged = f", {counted(progress['damaged'], 'damaged blob')}" if progress["damaged"] else ""
    return f": {counted(progress['values'], 'value')}, {progress['blobs']} of {progress['of_blobs']} blobs{damaged}"


def _tell_turned(output: Output, count: int, standing: KeysStanding, *, by: str, wrapping: bool, forget: bool) -> None:
    if output.json:
        output.document({"count": count, **_facts(standing), "by": by})
        return
    if wrapping:
        output.text(f"{counted(count, 'key')} wrapped by a new key of {standing.source}; keep a copy of it elsewhere")
        if not forget:
            output.text(KEPT_KEY)
    else:
        output.text(f"{counted(count, 'new key')}; what older ones sealed is read on, and sealed anew")
