"""`inferd certs init`, `issue`, `revoke` and `list`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import platformdirs

from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from inferd.cli.cert_authority import Issued
    from inferd.cli.output import Output

COLUMNS = ("SERIAL", "NAME", "KIND", "NAMES", "STATE", "ENDS")


def init(output: Output, folder: Path | None, *, name: str, days: float) -> None:
    """Make an authority."""
    made = _cert_authority().CertAuthority.create(_folder(folder), name=name, days=days)
    ends = made.root.not_valid_after_utc
    if output.json:
        output.document({"folder": str(made.folder), "name": name, "end_time": ends.isoformat()})
        return
    output.note(f"an authority in {made.folder}; keep its key, ca.key, from everybody else")
    output.text(f"it, and all that it issues, ends {ends:%Y-%m-%d %H:%M} UTC (--days); then make another")
    output.text(f"of a kernel: tls.client_ca_file = {made.folder / 'ca.pem'}, tls.crl_file = {made.folder / 'crl.pem'}")
    output.text(f"of clients: --ca-file {made.folder / 'ca.pem'}")


def issue(
    output: Output,
    folder: Path | None,
    name: str,
    *,
    hosts: Sequence[str],
    uris: Sequence[str],
    days: float,
    out: Path,
    replace: bool,
) -> None:
    """Issue a certificate."""
    if hosts and uris:
        message = "a certificate is a server's (--host) or a client's (--uri); issue one for each"
        raise CommandError(message, reason="USAGE")
    authority = _cert_authority().CertAuthority(_folder(folder))
    issued, cert_file, key_file = authority.issue(name, hosts=hosts, uris=uris, days=days, out=out, replace=replace)
    if output.json:
        output.document({**_facts(issued), "cert_file": str(cert_file), "key_file": str(key_file)})
        return
    whose = "a server" if issued.server else "a client"
    ends = issued.certificate.not_valid_after_utc
    output.text(f"{cert_file} and {key_file}: {whose}, {', '.join(issued.names)}, until {ends:%Y-%m-%d %H:%M} UTC")


def revoke(output: Output, folder: Path | None, which: str) -> None:
    """Revoke certificates."""
    authority = _cert_authority().CertAuthority(_folder(folder))
    gone = authority.revoke(which)
    if output.json:
        output.document({"certificates": [_facts(each) for each in gone]})
        return
    for each in gone:
        output.text(f"{each.serial} of {each.name} is revoked")
    if not gone:
        output.text(f"nothing of {which} holds any more")
        return
    output.note(f"kernels see it in {authority.folder / 'crl.pem'}: on other hosts copy that file, tls.crl_file")
    if any(each.server for each in gone):
        output.note("clients do not look at that list: give the server another certificate, and this one is of no use")


def list_all(output: Output, folder: Path | None) -> None:
    """List what was issued."""
    issued = _cert_authority().CertAuthority(_folder(folder)).issued()
    if output.json:
        output.document({"certificates": [_facts(each) for each in issued]})
        return
    output.table(
        COLUMNS,
        map(_row, issued),
        empty="nothing was issued; do with: inferd certs issue NAME --host HOST",
        gives_way="NAMES",
        goes=("NAMES", "KIND"),
    )


def _cert_authority() -> ModuleType:
    try:
        from inferd.cli import cert_authority  # noqa: PLC0415 - the library is not everybody's
    except ImportError:
        message = 'certificates are made with cryptography: pip install "inferd[auth]"'
        raise CommandError(message, reason="PACKAGE_MISSING") from None
    return cert_authority


def _folder(folder: Path | None) -> Path:
    return (folder or platformdirs.user_config_path("inferd") / "certs").absolute()


def _facts(issued: Issued) -> dict[str, object]:
    certificate = issued.certificate
    return {
        "serial": issued.serial,
        "name": issued.name,
        "kind": "server" if issued.server else "client",
        "names": issued.names,
        "state": issued.state(datetime.now(UTC)),
        "begin_time": certificate.not_valid_before_utc.isoformat(),
        "end_time": certificate.not_valid_after_utc.isoformat(),
        "revoke_time": None if issued.revoked is None else issued.revoked.isoformat(),
    }


def _row(issued: Issued) -> tuple[str, ...]:
    return (
        issued.serial[:16],
        issued.name,
        "server" if issued.server else "client",
        ", ".join(issued.names),
        issued.state(datetime.now(UTC)),
        f"{issued.certificate.not_valid_after_utc:%Y-%m-%d %H:%M}",
    )
