"""Which hosts give files of models to which others."""

from types import SimpleNamespace
from typing import Any

from inferd.runtime.far import peers as module
from inferd.runtime.far.peers import Peers
from inferd_api.agent.v1 import agent_pb2 as wire

MODEL, FOLDER = "a" * 64, "f" * 64


class Host:
    """A host, as far as it matters here."""

    def __init__(self, name: str, *, serves: bool = True, zone: str = "") -> None:
        self.name, self.gone = name, ""
        self.gives: frozenset[str] = frozenset()
        self.tickets: list[str] = []
        self.hold: dict[bytes, None] = {}
        files = wire.FileServer(address=f"{name}:1" if serves else "", certificate=b"c")
        self.facts = SimpleNamespace(files=files, told=SimpleNamespace(labels={"zone": zone} if zone else {}))

    def give(self, ticket: bytes, folder: str, holds_s: float) -> None:
        assert (len(ticket), folder) == (32, FOLDER)
        if holds_s > 0:
            self.tickets.append(folder)
            self.hold[ticket] = None
        else:
            del self.hold[ticket]


def has(peers: Any, host: Any) -> None:
    before, host.gives = host.gives, frozenset({MODEL})
    peers.held(host, before, host.gives, grown=True)


def giver(peers: Any, host: Any, *failed: str) -> str:
    found = peers.find(MODEL, FOLDER, host, failed)
    return "" if found is None else found.host


async def test_a_model_spreads_from_host_to_host() -> None:
    """The kernel gives it once; others wait for that, and are given it by those that have it, so many by each."""
    peers: Any = Peers(2)
    hosts: Any = {name: Host(name) for name in "abcdefg"}
    a, *others = hosts.values()
    assert not peers.expects(MODEL, a, ())
    with peers.coming(MODEL, a):
        assert not peers.expects(MODEL, a, ())
        assert all(peers.expects(MODEL, each, ()) for each in others)
        assert not any(giver(peers, each) for each in others)
    assert peers.expects(MODEL, others[0], ())  # until it says so
    has(peers, a)
    assert [giver(peers, each) for each in others] == ["a", "a", "", "", "", ""]
    has(peers, others[0])
    assert sorted(giver(peers, each) for each in others[2:]) == ["", "a", "b", "b"]
    assert len(a.tickets) == 3
    for each in others[1:]:
        has(peers, each)
    assert not peers._gives
    assert not peers._giver
    for each in hosts.values():
        peers.lost(each)
    assert not peers._holders
    assert not peers._coming


async def test_a_host_that_is_lost_leaves_its_place_at_who_gave_to_it() -> None:
    """Another one is given to at once, and not when the ticket would have ended."""
    peers: Any = Peers(2)
    giving, first, second = Host("a"), Host("b"), Host("c")
    has(peers, giving)
    assert [giver(peers, each) for each in (first, second, Host("d"))] == ["a", "a", ""]
    peers.lost(first)
    assert giver(peers, Host("d")) == "a"
    for each in (second, giving):
        peers.lost(each)
    assert (peers._gives, peers._giver) == ({}, {})


async def test_a_host_has_one_ticket_at_most() -> None:
    """The one before ends with the next one, wherever it was for, and the last one when the host is lost."""
    peers: Any = Peers(2)
    first, second, fetcher = Host("a"), Host("b"), Host("x")
    has(peers, first)
    for _ in range(3):
        assert giver(peers, fetcher) == "a"
        assert len(first.hold) == 1
        has(peers, fetcher)  # as it says
        peers.held(fetcher, fetcher.gives, ())
    has(peers, second)
    assert giver(peers, fetcher, "a") == "b"
    assert (len(first.hold), len(second.hold)) == (0, 1)
    peers.lost(fetcher)
    assert not second.hold
    giver(peers, fetcher, "b")
    peers.lost(first)
    assert not peers._tickets


async def test_who_failed_is_not_named_again_and_near_ones_are_first(monkeypatch: Any) -> None:
    """Where all have failed, or are lost, nobody is waited for; one in the same zone comes before one with less."""
    peers: Any = Peers(2)
    near, far, fetcher = Host("near", zone="z"), Host("far"), Host("x", zone="z", serves=False)
    for each in (far, near):
        has(peers, each)
    giver(peers, Host("y", zone="z"))
    assert giver(peers, fetcher) == "near"
    assert giver(peers, fetcher, "near") == "far"
    assert giver(peers, fetcher, "near", "far") == ""
    assert not peers.expects(MODEL, fetcher, ("near", "far"))
    peers.lost(near)
    peers.lost(far)
    assert not peers.expects(MODEL, fetcher, ())
    with peers.coming(MODEL, fetcher):  # which gives nothing to others
        assert not peers.expects(MODEL, near, ())
    monkeypatch.setattr(module, "SAYS_S", -1.0)
    with peers.coming(MODEL, far):
        assert peers.expects(MODEL, near, ())
    assert not peers.expects(MODEL, near, ())


def test_a_host_waits_for_one_model() -> None:
    """Whoever opens more streams than one waits with the first one only, as long as that lasts."""
    peers: Any = Peers(2)
    host: Any = Host("a")
    for _ in range(2):
        with peers.waiting(host) as first, peers.waiting(host) as second:
            assert (first, second) == (True, False)
    assert not peers._waiting
