"""Tickets of shared sockets: whom they stand for, for how long, and how a client has one."""

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inferd.auth_settings import Auth
from inferd.core.key import Key
from inferd.core.principal import Principal
from inferd.errors import InvalidFieldError, UnauthenticatedError
from inferd.runtime.keyring import Keyring
from inferd.runtime.tickets import Tickets, principal_of
from inferd.sharing import Sharing, sharing_of
from inferd.tls_settings import Identity
from inferd_client import errors
from inferd_client import tickets as held

OTHER = os.geteuid() + 4711
MADE: dict[str, Any] = {"created": 0.0, "expires": None, "secrets": ()}


def unkeyed(_tenant: str, _names: Collection[str]) -> bool:
    """No key has any tenant."""
    return False


def test_a_ticket_holds_for_its_time_and_its_user() -> None:
    """A ticket stands for the user that it was made for until its time is over; another text stands for nobody."""
    now = [100.0]
    tickets = Tickets(Auth(ticket_s=10), now=lambda: now[0])
    one, two = tickets.issue(OTHER, "anna"), tickets.issue(OTHER, "")
    assert tickets.verify(one, unkeyed).principal.name == "user:anna"
    assert tickets.verify(two, unkeyed).principal.name == f"uid:{OTHER}"
    for wrong in (one[:-1], one + "0", "it_", "", "it_" + "0" * 64):
        with pytest.raises(UnauthenticatedError):
            tickets.verify(wrong, unkeyed)
    now[0] += 10
    with pytest.raises(UnauthenticatedError, match="take a new one"):
        tickets.verify(one, unkeyed)


def test_a_user_with_many_tickets_takes_nobody_elses() -> None:
    """Where there are as many tickets as may be, the oldest ends of the user with most; ended ones are no more."""
    now = [0.0]
    tickets = Tickets(Auth(tickets=4, ticket_s=10), now=lambda: now[0])
    anna = tickets.issue(OTHER, "anna")
    first, *others = [tickets.issue(OTHER + 1, "bob") for _ in range(4)]
    assert [tickets.verify(each, unkeyed).principal.name for each in (anna, *others)] == [
        "user:anna",
        *["user:bob"] * 3,
    ]
    with pytest.raises(UnauthenticatedError):
        tickets.verify(first, unkeyed)
    now[0] += 10
    late = [tickets.issue(OTHER, "anna") for _ in range(4)]
    assert all(tickets.verify(each, unkeyed) for each in late)


@pytest.mark.parametrize(
    ("uid", "name", "settings", "principal"),
    [
        (OTHER, "anna", {}, Principal(name="user:anna", roles=frozenset({"user"}), tenants=("anna",))),
        (OTHER, "", {}, Principal(name=f"uid:{OTHER}", roles=frozenset({"user"}), tenants=(f"uid-{OTHER}",))),
        (OTHER, "CORP\\a b", {}, Principal(name=f"uid:{OTHER}", roles=frozenset({"user"}), tenants=(f"uid-{OTHER}",))),
        (OTHER, "default", {}, Principal(name="user:default", roles=frozenset({"user"}), tenants=(f"uid-{OTHER}",))),
        (
            OTHER,
            "anna",
            {"users": {"anna": {"roles": ["operator"], "tenants": ["web", "lab"]}}, "user_roles": ()},
            Principal(name="user:anna", roles=frozenset({"operator"}), tenants=("web", "lab")),
        ),
        (
            OTHER,
            "",
            {"users": {str(OTHER): {"roles": ["viewer"]}}},
            Principal(name=f"uid:{OTHER}", roles=frozenset({"viewer"}), tenants=(f"uid-{OTHER}",)),
        ),
        (
            OTHER,
            "anna",
            {"users": {"anna": {"roles": ["user"], "tenants": ["anna"]}, "bob": {"roles": [], "tenants": ["anna"]}}},
            Principal(name="user:anna", roles=frozenset({"user"}), tenants=("anna",)),
        ),
        (
            OTHER,
            "lab",
            {"users": {"anna": {"roles": ["user"], "tenants": ["lab", "anna"]}}},
            Principal(name="user:lab", roles=frozenset({"user"}), tenants=(f"uid-{OTHER}",)),
        ),
        (
            OTHER,
            "lab",
            {"issuers": {"corp": {"issuer": "x", "audience": "y", "jwks_file": "/z", "tenants": ["lab"]}}},
            Principal(name="user:lab", roles=frozenset({"user"}), tenants=(f"uid-{OTHER}",)),
        ),
        (
            OTHER,
            str(OTHER + 1),
            {"users": {str(OTHER + 1): {"roles": ["admin"], "tenants": ["*"]}}},
            Principal(name=f"user:{OTHER + 1}", roles=frozenset({"user"}), tenants=(str(OTHER + 1),)),
        ),
        (
            OTHER,
            str(OTHER + 1),
            {"users": {str(OTHER): {"roles": ["viewer"]}}},
            Principal(name=f"user:{OTHER + 1}", roles=frozenset({"viewer"}), tenants=(str(OTHER + 1),)),
        ),
        (os.geteuid(), "me", {}, Principal(name="local", roles=frozenset({"admin"}), tenants=("*",))),
        (0, "root", {}, Principal(name="local", roles=frozenset({"admin"}), tenants=("*",))),
    ],
)
def test_who_a_user_is(uid: int, name: str, settings: dict[str, object], principal: Principal) -> None:
    """A user has what is configured by its name or number, or the tenant of its name, if that is nobody else's.

    A name of digits is no number; the kernel's own user may name any tenant.
    """
    assert principal_of(uid, name, Auth.model_validate(settings)) == principal


def test_no_user_is_in_the_tenant_of_a_certificate_or_a_key_by_its_name() -> None:
    """A user whose name is a tenant of certificates has another one, and of a key of others from when that is made."""
    identities = (Identity(name="spiffe://*", tenants=("lab",)),)
    tickets, keyring = Tickets(Auth(), identities=identities), Keyring(bytes(32), Auth())
    of_lab, of_web = tickets.issue(OTHER, "lab"), tickets.issue(OTHER, "web")

    def tenants(ticket: str) -> tuple[str, ...]:
        return tickets.verify(ticket, keyring.is_of_others).principal.tenants

    assert tenants(of_lab) == (f"uid-{OTHER}",)
    for name in ("web", "user:web"):
        keyring.adopt([(Key(key_id=name, principal=Principal(name=name, tenants=("web",)), **MADE), None)])
        assert tenants(of_web) == ("web",)
    keyring.adopt([(Key(key_id="x", principal=Principal(name="anna", tenants=("z", "web")), **MADE), None)])
    assert tenants(of_web) == (f"uid-{OTHER}",)


def test_no_issuer_makes_users_of_this_host() -> None:
    """Tokens cannot stand for `user:anna`: no issuer has that name."""
    issuer = {"issuer": "x", "audience": "y", "jwks_file": "/z"}
    with pytest.raises(ValidationError, match="no issuer is named 'user'"):
        Auth.model_validate({"issuers": {"user": issuer}})


def test_a_group_that_is_not_there_or_cannot_come_is_told(tmp_path: Path) -> None:
    """A group that this host lacks, and a folder that it cannot enter, are errors with the command that mends them."""
    with pytest.raises(InvalidFieldError, match="sudo groupadd no-such-group") as caught:
        sharing_of("0600", "no-such-group")
    assert caught.value.field == "socket_group"
    tmp_path.chmod(0o700)
    with pytest.raises(OSError, match=f"group lab cannot enter the folder {tmp_path} "):
        Sharing(0o660, "lab", 4711).check_way(tmp_path / "k.sock")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Serves a text at the place of tickets, anew each time; the path of the kernel's socket."""
    made: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(text: str) -> Path:
        (tmp_path / "k.id").unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "k.id"))
        listener.listen()
        made.append(listener)

        def answer() -> None:
            with suppress(OSError):  # the test has ended
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(text.encode())
                    connection.close()

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return tmp_path / "k"

    yield serve
    for listener, thread in zip(made, threads, strict=True):
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_client_renews_its_ticket(door: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket is taken once, again when two thirds of its time are over, and at once from another kernel."""
    first, second = "it_" + "1" * 64, "it_" + "2" * 64
    tickets = held.Tickets(door(f"{first}\n300\n"))
    assert tickets.current() == tickets.current() == first
    assert not tickets.is_due
    soon = time.monotonic() + 201
    monkeypatch.setattr(time, "monotonic", lambda: soon)
    assert tickets.is_due
    assert tickets.current() == first
    assert not tickets.is_due
    door(f"{second}\n300\n")
    assert tickets.current() == second


def test_what_is_no_ticket_is_not_sent(door: Callable[[str], Path], tmp_path: Path) -> None:
    """Without such a socket there is no ticket; a refusal is an error, and what is no ticket is none."""
    assert held.Tickets(tmp_path / "none").current() == ""
    assert held.Tickets(door("hello\r\nworld\n")).current() == ""
    with pytest.raises(errors.UnauthenticatedError, match="no ticket: uid 65534 stands for"):
        held.Tickets(door("error: uid 65534 stands for users\n")).current()


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[socket.socket]:
    """A place of tickets whose queue is full."""
    with ExitStack() as open_, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "k.id"))
        listener.listen(1)
        with suppress(BlockingIOError):
            while True:
                one = open_.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(str(tmp_path / "k.id"))
        yield listener


def test_a_client_waits_where_many_ask(crowded: socket.socket, tmp_path: Path) -> None:
    """Where the queue for tickets is full, a client waits for its turn and has its ticket."""
    ticket = "it_" + "1" * 64
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(held.Tickets(tmp_path / "k").current)
        with suppress(TimeoutError):
            asked.result(timeout=0.05)  # time to come to the full queue
        crowded.settimeout(held.ASK_S)
        while not asked.done():
            with suppress(OSError), crowded.accept()[0] as connection:  # OSError: nobody is left, or it has gone
                connection.sendall(f"{ticket}\n300\n".encode())
                connection.shutdown(socket.SHUT_WR)
        assert asked.result() == ticket


def test_a_client_that_gets_no_turn_is_told(
    crowded: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that gets no turn is told so in time, and goes on with a ticket that holds still."""
    monkeypatch.setattr(held, "ASK_S", 0.05)
    monkeypatch.setattr(held, "RENEW_S", 0.05)
    tickets = held.Tickets(tmp_path / "k")
    with pytest.raises(errors.KernelUnreachableError, match=r"k\.id gave none in 0\.05 s"):
        tickets.current()
    now = time.monotonic()
    tickets._ticket, tickets._from, tickets._ends = "it_held", tickets._stamp(), now + 60
    assert tickets.is_due
    assert tickets.current() == "it_held"
    assert not tickets.is_due
    assert crowded.fileno() >= 0
