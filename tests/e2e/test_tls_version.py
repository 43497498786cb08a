"""TLS of a kernel in a process of its own: what gRPC has to be told before it is loaded."""

import socket
import ssl
from pathlib import Path

import pytest
from time_limits import LONG_S

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import kernel_process


def test_no_version_before_tls_1_3_is_taken(tmp_path: Path) -> None:
    """`inferd serve` makes no connection by TLS 1.2, and does by 1.3."""
    authority = CertAuthority.create(tmp_path / "ca", name="test", days=1)
    _, cert_file, key_file = authority.issue(
        "kernel", hosts=["localhost"], uris=(), days=1, out=tmp_path, replace=False
    )
    files = {"INFERD_TLS__CERT_FILE": cert_file, "INFERD_TLS__KEY_FILE": key_file}
    environment = {**{name: str(path) for name, path in files.items()}, "INFERD_BACKENDS": "[]"}
    with kernel_process(tmp_path, environment=environment, listen="tls:127.0.0.1:0") as kernel:
        port = int(kernel.address.rpartition(":")[2])
        assert negotiated(authority.folder / "ca.pem", port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(OSError, match=r"EOF|reset|alert"):
            negotiated(authority.folder / "ca.pem", port, ssl.TLSVersion.TLSv1_2)


def negotiated(ca_file: Path, port: int, most: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=ca_file)
    context.maximum_version = most
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), LONG_S) as opened,
        context.wrap_socket(opened, server_hostname="localhost") as secured,
    ):
        return secured.version()
