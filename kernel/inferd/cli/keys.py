"""`inferd keys create`, `list`, `revoke`, `rotate` and `whoami`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd.errors import suggestion
from inferd_api.v1.auth_pb2 import KeyState
from inferd_client.credentials import write_credential
from inferd_client.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from google.protobuf.timestamp_pb2 import Timestamp

    from inferd.cli.output import Output
    from inferd_api.v1.auth_pb2 import Key
    from inferd_client import Client
    from inferd_client.keys import NewKey

COLUMNS = ("KEY", "PRINCIPAL", "ROLES", "TENANTS", "STATE", "EXPIRES", "LAST USE")


def create(
    output: Output,
    address: str,
    principal: str,
    *,
    roles: Sequence[str],
    tenants: Sequence[str],
    expires_in_s: float | None,
    write: Path | None,
) -> None:
    """Make a key and tell its credential."""
    _check_free(write)
    expire_time = None if expires_in_s is None else time.time() + expires_in_s
    with connected(address) as client:
        made = client.create_key(principal, roles=roles, tenants=tenants, expire_time=expire_time)
        _tell(output, made, write)
        for note in _doubts(client, roles):
            output.note(note)


def _doubts(client: Client, roles: Sequence[str]) -> Iterator[str]:
    """Why a new key may be of no use, where its maker may know the roles."""
    if not roles:
        yield "the key has no role: it may do nothing until a rule names its principal; see --role"
        return
    try:
        known = [role.name for role in client.list_roles()]
    except InferdError:  # the key is made, and has been told
        return
    for role in roles:
        if role not in known:
            near = suggestion(role, known)
            hint = f"; did you mean {near!r}?" if near else ""
            seen = f"(known to you: {', '.join(known)})"
            yield f"no rule that you may read names the role {role} {seen}: it gives nothing until one does{hint}"


def rotate(output: Output, address: str, key_id: str, *, overlap_s: float | None, write: Path | None) -> None:
    """Give a key a new credential and tell it."""
    _check_free(write)
    with connected(address) as client:
        made = by_prefix(partial(client.rotate_key, overlap_s=overlap_s), key_id, _ids(client))
        _tell(output, made, write)


def list_all(output: Output, address: str) -> None:
    """List keys."""
    with connected(address) as client:
        keys = list(client.list_keys())
    if output.json:
        output.document({"keys": [plain(key) for key in keys]})
        return
    output.table(
        COLUMNS,
        map(_row, keys),
        empty="no keys; make one with: inferd keys create PRINCIPAL --role user",
        gives_way="TENANTS",
        goes=("LAST USE", "EXPIRES", "TENANTS"),
    )


def revoke(output: Output, address: str, key_id: str) -> None:
    """Take a key back."""
    with connected(address) as client:
        key = by_prefix(client.revoke_key, key_id, _ids(client))
    if output.json:
        output.document(plain(key))
    else:
        output.text(f"{key.key_id} of {key.principal} is {_state(key)}")


def whoami(output: Output, address: str) -> None:
    """Tell who the kernel takes this command for."""
    with connected(address) as client:
        said = client.whoami()
    if output.json:
        output.document(plain(said))
        return
    roles, tenants = (", ".join(names) or "none" for names in (said.principal.roles, said.principal.tenants))
    key = f" (key {said.key_id})" if said.key_id else ""
    output.text(f"{said.principal.name}{key}, roles: {roles}, tenants: {tenants}")


def _ids(client: Client) -> Iterator[str]:
    return (key.key_id for key in client.list_keys())


def _check_free(write: Path | None) -> None:
    """See that a credential can be written before there is one, which could not be told again."""
    if write is not None and (write.exists() or not write.parent.is_dir()):
        why = "is there already" if write.exists() else "is in a folder that is not there"
        raise CommandError(f"{write} {why}; name a new file", reason="USAGE")


def _tell(output: Output, made: NewKey, write: Path | None) -> None:
    if write is not None:
        write_credential(write, made.credential)
    if output.json:
        output.document({"key": plain(made.key), **({} if write else {"credential": made.credential})})
        return
    where = f"is in {write}" if write else "is shown this once"
    output.note(f"key {made.key.key_id} of {made.key.principal}; its credential {where}")
    if write is None:
        output.text(made.credential)


def _row(key: Key) -> tuple[str, ...]:
    return (
        key.key_id,
        key.principal,
        ", ".join(key.roles),
        ", ".join(key.tenants),
        _state(key),
        _moment(key.expire_time) if key.HasField("expire_time") else "never",
        _moment(key.last_use_time) if key.HasField("last_use_time") else "never",
    )


def _state(key: Key) -> str:
    return KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()


def _moment(moment: Timestamp) -> str:
    return moment.ToJsonString()[:19].replace("T", " ")
