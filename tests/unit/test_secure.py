"""What TLS has to be for a call to be let in."""

from collections.abc import Iterable, Mapping

import pytest

from inferd.errors import UnauthenticatedError
from inferd.runtime.certificates import Certificates
from inferd.services.secure import Secure
from inferd.tls_settings import Tls

PLAIN = {"transport_security_type": [b"insecure"], "security_level": [b"TSI_SECURITY_NONE"]}


def secured(version: bytes) -> Mapping[str, Iterable[bytes]]:
    return {"transport_security_type": [b"ssl"], "ssl_tls_version": [version]}


@pytest.mark.parametrize("used", [True, False])
def test_plaintext_comes_from_this_host_alone(used: bool) -> None:  # noqa: FBT001 - a case
    """A call without TLS is refused where the other end is not on this host, however it got to the kernel."""
    secure = Secure(Certificates(Tls(), used=used))
    for peer in ("unix:", "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1"):
        assert secure.certified(peer, lambda: PLAIN) is None
    for peer in ("ipv4:10.0.0.1:1", "ipv6:%5B2001:db8::1%5D:1"):
        with pytest.raises(UnauthenticatedError, match="without TLS"):
            secure.certified(peer, lambda: PLAIN)


def test_no_call_comes_by_a_version_before_1_3() -> None:
    """A call of a connection with TLS 1.2 is refused, if there is one."""
    secure = Secure(Certificates(Tls(), used=True))
    assert secure.certified("ipv4:10.0.0.1:1", lambda: secured(b"TLSv1.3")) is None
    with pytest.raises(UnauthenticatedError, match=r"before 1\.3"):
        secure.certified("ipv4:127.0.0.1:1", lambda: secured(b"TLSv1.2"))
