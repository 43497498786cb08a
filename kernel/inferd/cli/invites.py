"""`inferd hosts invite`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd_client.credentials import write_credential
from inferd_client.tls import has_tls

if TYPE_CHECKING:
    from pathlib import Path

    from inferd.cli.output import Output


def invite(
    output: Output, address: str, host: str, *, uses: int | None, expires_in_s: float | None, write: Path | None
) -> None:
    """Make an invitation and tell it."""
    if write is not None and (write.exists() or not write.parent.is_dir()):
        why = "is there already" if write.exists() else "is in a folder that is not there"
        raise CommandError(f"{write} {why}; name a new file", reason="USAGE")
    with connected(address) as client:
        made = client.create_invite(host, uses=uses, ttl_s=expires_in_s)
        kernel = client.address
    if write is not None:
        write_credential(write, made.credential)
    ends = made.expire_time.ToJsonString()
    if output.json:
        told = {"key_id": made.key_id, "expire_time": ends, "uses": made.uses}
        output.document(told if write else {**told, "credential": made.credential})
        return
    many = "one host joins" if made.uses == 1 else f"{made.uses} hosts join"
    where = f"is in {write}" if write else "is shown this once"
    seen = (
        "tls:KERNEL:7411" if kernel.startswith("unix:") else kernel
    )  # which the other machine reaches by another address
    trusted = "--ca-file ca.pem " if has_tls(seen) else ""
    output.note(
        f"{many} by it, until {ends[:19].replace('T', ' ')}; it {where}. On the other machine: "
        f"inferd {trusted}host --join {seen} --token-file FILE"
    )
    if write is None:
        output.text(made.credential)
