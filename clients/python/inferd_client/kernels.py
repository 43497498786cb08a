"""The kernels of a client that was given several addresses: which of them leads.

One writer of that: the lookout. It asks the kernel that calls go to for its health, each second while there are calls
and at once when one fails; where that one does not serve, it asks the others, and has calls go to the one that does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.rpc import status_pb2
from grpc_health.v1.health_pb2 import HealthCheckResponse

from inferd_client.absence import WHY
from inferd_client.addresses import MOST, split_addresses
from inferd_client.errors import DETAILS_KEY, KernelUnreachableError, NotLeaderError, from_status
from inferd_client.returning import UNCONNECTED
from inferd_client.tls import has_tls, why_failed

if TYPE_CHECKING:
    from inferd_client.errors import InferdError

LOOK_S: Final = 1.0  # between two looks at a kernel that serves
ASK_S: Final = 1.0  # how long one is waited for
SEEK_S: Final = 0.2  # between two rounds while none is found
AGAIN_S: Final = 0.05  # between two tries of a call
LEADERLESS_S: Final = 15.0  # how long a call waits for one that leads, while kernels answer that stand by
SERVES, STANDS_BY = "it serves", "it stands by, or starts"
WHY_BYTES: Final = 160
READING: Final = ("Get", "List", "Watch", "Read", "Plan", "Tokenize", "Detokenize", "Count")
"""How the requests of calls begin that change nothing."""
MOVED: Final = "the call was given up: another kernel leads"
UNSENT: Final = f"{MOVED}, and nothing of it was sent"


class MovedError(grpc.RpcError):
    """A call to a kernel that does not answer, or leads no more, while another one does.

    Args:
        unsent: Whether there never was a connection by which it could have been sent.
    """

    def __init__(self, *, unsent: bool) -> None:
        super().__init__()
        self._unsent = unsent

    def code(self) -> grpc.StatusCode:
        """As if the connection had broken."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """For people."""
        return UNSENT if self._unsent else MOVED

    def trailing_metadata(self) -> tuple[()]:
        """None."""
        return ()


class Kernels:
    """What is known of the kernels. Safe to use from several threads.

    Args:
        addresses: As they were given; calls go to the first one until another is found to lead.

    Attributes:
        current: Where calls go.
        said: What each said last, or why it said nothing.
    """

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._given = addresses
        self._told: dict[str, None] = {}  # by kernels that stand by; the last ones
        self._plain: dict[str, None] = {}  # of what was told: without TLS, while all that was given has it
        self._secure = any(has_tls(each) for each in addresses)
        self._lock = threading.Lock()
        self.current = addresses[0]
        self.said: dict[str, str] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, those that calls go to first."""
        with self._lock:
            return tuple(dict.fromkeys((self.current, *self._given, *reversed(self._told))))

    def tell(self, address: str, said: str) -> bool:
        """A kernel has said so, or could not be asked for that reason; whether it serves."""
        self.said[address] = said[:WHY_BYTES]
        return said == SERVES

    def hear(self, error: grpc.RpcError) -> None:
        """Take up where a kernel that stands by says that the leader is: with TLS, if any that was given has it."""
        leader = leader_told(error)
        if not leader:
            return
        try:
            addresses = split_addresses(leader)
        except ValueError:
            return
        with self._lock:
            for each in reversed(addresses):
                known = self._plain if self._secure and not has_tls(each) and each not in self._given else self._told
                known.pop(each, None)
                known[each] = None
                while len(known) > MOST:
                    del known[next(iter(known))]

    @property
    def alive(self) -> bool:
        """Whether one of them answers: then one may come to lead."""
        return any(said in {SERVES, STANDS_BY} for said in self.said.values())

    def failure(self) -> InferdError:
        """That none leads, and what each of them said."""
        said = "; ".join(f"{each}: {self.said.get(each, 'it was not asked')}" for each in self.addresses)
        if self._plain:
            said = (
                f"{said}; a kernel told {' and '.join(reversed(self._plain))}, which has no TLS, as what you gave has:"
                " it is not used; have the kernels tell addresses with TLS (standby.advertise), or give it yourself"
            )
        if self.alive:
            return NotLeaderError(f"no kernel leads: {said}", retry_after_s=SEEK_S)
        unreachable = KernelUnreachableError(f"no kernel answers: {said}")
        unreachable.unsent = True
        return unreachable


def read_health(answer: HealthCheckResponse) -> str:
    """What a kernel says of its health."""
    return SERVES if answer.status == HealthCheckResponse.SERVING else STANDS_BY


def why_not(error: grpc.RpcError, address: str) -> str:
    """Why a kernel said nothing of its health; one that refuses to is there, and busy."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {ASK_S:g} s"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "what answers there tells no health: it is no kernel"
    if code is not grpc.StatusCode.UNAVAILABLE:
        return SERVES
    return why_failed(address, details) or next((why for said, why in WHY.items() if said in details), details)


def was_moved(error: grpc.RpcError) -> bool:
    """Whether a call was given up, as another kernel leads."""
    return error.details() in {MOVED, UNSENT}


def leader_told(error: grpc.RpcError) -> str:
    """The addresses that a refusal names as the leader's; "" for none, and for other errors."""
    told = _error_of(error)
    return told.metadata.get("leader", "") if isinstance(told, NotLeaderError) else ""


def _error_of(error: grpc.RpcError) -> InferdError | None:
    """What the kernel itself says; None where the status is the transport's."""
    pairs: Any = error.trailing_metadata() or ()
    for key, value in pairs:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return None


def is_refused(error: grpc.RpcError) -> bool:
    """Whether a kernel refused a call since it does not lead: nothing of it was done."""
    return isinstance(_error_of(error), NotLeaderError)


def may_repeat(error: grpc.RpcError, request: object = None) -> bool:
    """Whether a call that failed may be made again: nothing of it was done, or it only reads."""
    if is_refused(error):
        return True
    if error.code() is not grpc.StatusCode.UNAVAILABLE or _error_of(error) is not None:
        return False
    name, details = type(request).__name__, error.details() or ""
    return details == UNSENT or UNCONNECTED in details or name.startswith(READING)


def limit_of(timeout_s: float | None) -> float:
    """How long a call waits for a kernel that leads."""
    return LEADERLESS_S if timeout_s is None else min(timeout_s, LEADERLESS_S)
