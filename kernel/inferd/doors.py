"""Where a kernel is reached: the addresses that are configured, or the usual socket, and who may use it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from inferd.addresses import UNIX, listening
from inferd.config import Settings
from inferd.listeners import has_tls, listen_places
from inferd.places import own_socket
from inferd.runtime.certificates import Certificates
from inferd.runtime.ticket_door import TicketDoor
from inferd.runtime.tickets import Tickets
from inferd.services.secure import secure_ports


@dataclass(frozen=True, slots=True)
class Doors:
    """Where a kernel is reached, and what says there who comes.

    Attributes:
        addresses: Where it listens, ports filled in.
        certificates: Of connections with TLS.
        tickets: Are given beside sockets that others may use than the kernel's user.
    """

    addresses: tuple[str, ...]
    certificates: Certificates
    tickets: Tickets


@asynccontextmanager
async def opened_doors(settings: Settings, server: grpc.aio.Server) -> AsyncIterator[Doors]:
    """Have gRPC listen until the block ends, with certificates that are read anew when their files change.

    Args:
        settings: Of the kernel.
        server: Listens.

    Raises:
        InvalidFieldError: There is no such group, or the files of TLS cannot be used.
        OSError: An address is taken, or cannot be had; says which and why.
    """
    sharing, tickets = settings.sharing, Tickets(settings.auth, identities=settings.tls.identities)
    door = TicketDoor(tickets, sharing.give)
    certificates = Certificates(settings.tls, used=has_tls(settings))
    async with certificates.running():
        with listening(
            listen_places(settings),
            server.add_insecure_port,
            sharing=sharing,
            tickets_at=door.opened,
            besides=_owner_place(settings),
            secure=secure_ports(server, certificates),
        ) as addresses:
            yield Doors(addresses, certificates, tickets)


def _owner_place(settings: Settings) -> str:
    """The socket that is listened on besides, if it is free, where there is none and calls over TCP need a login.

    By it the user of the kernel makes the first key. "" for none.
    """
    if not settings.auth.required or any(address.startswith(UNIX) for address in listen_places(settings)):
        return ""
    own = own_socket()
    return "" if own is None else f"{UNIX}{own}"
