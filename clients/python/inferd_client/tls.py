"""Connections with TLS: `tls:host:port`, and `mtls:host:port`, where the client shows a certificate, too.

The name in the address is that which the kernel's certificate has to be for. Files are read once, by each client.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import TYPE_CHECKING, Final, NoReturn

import grpc

from inferd_client.credentials import MOST_BYTES, CredentialError, check_own

if TYPE_CHECKING:
    from collections.abc import Mapping

    File = str | os.PathLike[str]

TLS, MUTUAL = "tls:", "mtls:"
VARIABLES: Final = {"ca_file": "INFERD_CA_FILE", "cert_file": "INFERD_CERT_FILE", "key_file": "INFERD_KEY_FILE"}
UNTRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED", "certificate signature failure", "unable to get")
CLOSED: Final = ("Socket closed", "Handshake read failed", "onnection reset")


def split_scheme(address: str) -> tuple[str, str]:
    """What stands before an address with TLS, "" for one without; and the rest."""
    scheme = next((each for each in (TLS, MUTUAL) if address.startswith(each)), "")
    return scheme, address.removeprefix(scheme)


def has_tls(address: str) -> bool:
    """Whether an address is one with TLS."""
    return bool(split_scheme(address)[0])


def check_plaintext(address: str) -> None:
    """Refuse to send a credential over a network without TLS.

    Raises:
        CredentialError: The address is one of another host, and without TLS.
    """
    if has_tls(address) or address.startswith("unix:"):
        return
    host = address.rpartition(":")[0].strip("[]")
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here:
        raise CredentialError(
            f"a credential would go to {address} for everybody on the way to read; use an address with TLS, "
            f"tls:{address}, or a tunnel that ends on this host (ssh -L)"
        )


def secure_credentials(
    address: str, *, ca_file: File | None, cert_file: File | None, key_file: File | None
) -> grpc.ChannelCredentials | None:
    """What gRPC takes for an address with TLS; None for one without.

    Args:
        address: Of the kernel.
        ca_file: Authorities by which the kernel's certificate is checked; default: those that browsers trust.
        cert_file: Certificate that the client shows.
        key_file: Its private key.

    Raises:
        CredentialError: A file is missing, cannot be used, or is of no use.
    """
    given = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    scheme, _ = split_scheme(address)
    if not scheme:
        if named := next((name for name, file in given.items() if file is not None), None):
            fix = f"leave {named} out" if address.startswith("unix:") else f"write tls:{address}"
            raise CredentialError(f"{named} is given, and {address} is an address without TLS; {fix}")
        return None
    files = {name: given[name] or os.environ.get(variable) or None for name, variable in VARIABLES.items()}
    if scheme == MUTUAL or files["cert_file"] or files["key_file"]:
        _check_pair(address, files)
    roots, cert, key = (None if file is None else _read(file, name) for name, file in files.items())
    _check(files)
    return grpc.ssl_channel_credentials(roots, key, cert)


def _check_pair(address: str, files: Mapping[str, File | None]) -> None:
    for name in ("cert_file", "key_file"):
        if files[name] is None:
            option = f"--{name.replace('_', '-')}"
            raise CredentialError(
                f"{address} takes a certificate of the client and its key, and {name} is not given; "
                f"name it ({option}, {VARIABLES[name]})"
            )


def _read(file: File, name: str) -> bytes:
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - of whatever kind the path is
            if name == "key_file":
                check_own(os.fstat(opened.fileno()), "key", file)
            return opened.read(MOST_BYTES << 10)
    except OSError as error:
        raise CredentialError(f"the file {file} of {name} cannot be read: {error.strerror}") from None


def _check(files: Mapping[str, File | None]) -> None:
    """See that the files are what they are to be: gRPC would say so with each connection, and not which."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (ca := files["ca_file"]) is not None:
        try:
            context.load_verify_locations(ca)
        except (ssl.SSLError, OSError):
            raise CredentialError(f"the file {ca} of ca_file holds no certificates in PEM") from None
    cert, key = files["cert_file"], files["key_file"]
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        except (ssl.SSLError, OSError) as error:
            mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
            why = "do not belong together" if mismatch else "are no certificate and key in PEM"
            raise CredentialError(f"the files {cert} of cert_file and {key} of key_file {why}") from None


def _no_passphrase() -> NoReturn:
    raise CredentialError("the key of key_file is encrypted, and nobody is asked; write it without a passphrase")


def why_failed(address: str, details: str) -> str:
    """What is wrong between both ends, with the fix, by what gRPC says; "" for nothing that is sure not to pass."""
    scheme, bare = split_scheme(address)
    if not scheme:
        return ""
    host = bare.rpartition(":")[0]
    if "Hostname Verification" in details:
        return (
            f"the certificate of the kernel at {address} is for other names than {host}; use one of its names, or give "
            f"it one that has this one (inferd certs issue NAME --host {host})"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return f"what answers at {address} has no TLS; a kernel without it is at {bare}"
    if "has expired" in details:
        return f"the certificate of the kernel at {address} has expired; it needs a new one"
    if any(said in details for said in UNTRUSTED):
        return (
            f"the certificate of the kernel at {address} is of an authority that this client does not trust; name the "
            f"right one (ca_file, --ca-file, {VARIABLES['ca_file']})"
        )
    return ""


def why_closed(address: str, details: str) -> str:
    """What it may mean that a connection ends before it begins; "" where it does not."""
    if not any(said in details for said in CLOSED) or address.startswith("unix:"):
        return ""
    if split_scheme(address)[0] == TLS:
        bare = split_scheme(address)[1]
        return (
            f"it ended the connection: it ends or is starting; or it asks for certificates, as at {MUTUAL}{bare}, "
            "which cert_file and key_file name"
        )
    if has_tls(address):
        return (
            "it ended the connection: it takes certificates of clients alone that are of its authority and have not "
            "expired (cert_file and key_file), or it is starting"
        )
    return f"it ended the connection at once; where it has TLS, its address is tls:{address}"
