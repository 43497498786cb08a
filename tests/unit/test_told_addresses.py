"""Which addresses a client takes up of those that kernels tell it."""

from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from inferd.errors import NotLeaderError
from inferd.services.status import status_of
from inferd_client.addresses import MOST
from inferd_client.kernels import Kernels, why_not


class Refusal(grpc.RpcError):
    """What a kernel answers that stands by."""

    def __init__(self, leader: str) -> None:
        super().__init__()
        made = rpc_status.to_status(status_of(NotLeaderError("it stands by", metadata={"leader": leader})))
        self._pairs = made.trailing_metadata

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "it stands by"

    def trailing_metadata(self) -> Any:
        return self._pairs


class Broken(grpc.RpcError):
    """What gRPC says of a connection that does not come about."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"


@pytest.mark.parametrize("plain", ["evil:7411", "127.0.0.1:7411", "unix:/tmp/k"])
def test_a_client_with_tls_is_led_to_no_address_without(plain: str) -> None:
    """Whoever answers it, it never talks in plain text, and where nobody leads it says what it was told and why not."""
    kernels = Kernels(("tls:a:1", "mtls:b:2"))
    kernels.hear(Refusal(f"{plain},tls:c:3"))
    assert kernels.addresses == ("tls:a:1", "mtls:b:2", "tls:c:3")
    said = kernels.failure().message
    assert f"told {plain}, which has no TLS" in said
    assert "standby.advertise" in said


def test_what_a_client_was_given_itself_it_uses() -> None:
    """An address without TLS that stands beside others with TLS is its own choice, and stays when it is told again."""
    plain = "unix:/run/k"
    kernels = Kernels(("tls:a:1", plain))
    kernels.hear(Refusal(plain))
    assert kernels.addresses == ("tls:a:1", plain)
    assert "no TLS" not in kernels.failure().message


def test_a_client_without_tls_goes_where_it_is_told_and_says_what_is_lacking() -> None:
    """It takes up an address with TLS; that its authority is not known there is told with the setting."""
    kernels = Kernels(("a:1", "b:2"))
    kernels.hear(Refusal("tls:c:3"))
    assert kernels.addresses == ("a:1", "b:2", "tls:c:3")
    kernels.tell("tls:c:3", why_not(Broken(), "tls:c:3"))
    assert "an authority that this client does not trust" in kernels.failure().message


def test_the_last_addresses_that_were_told_are_known() -> None:
    """As many as a list may have, the newest first; older ones go."""
    kernels = Kernels(("a:1", "b:2"))
    for number in range(MOST + 3):
        kernels.hear(Refusal(f"x{number}:1,y{number}:1"))
    told = kernels.addresses[2:]
    assert len(told) == MOST
    assert told[:2] == (f"x{MOST + 2}:1", f"y{MOST + 2}:1")
