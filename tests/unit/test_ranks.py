"""The ranks of an instance: processes that are started, told, watched, and missed when they end or hang."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from inferd.plugin.ranks import MOST_RANKS, RankLostError, Ranks, open_ranks

LOADER = "spanning_fakes:Obedient"
PATIENCE_S = 30.0
SILENCE_S = 0.3


@contextmanager
def opened(size: int = 2) -> Iterator[Ranks]:
    ranks = open_ranks(LOADER, size)
    try:
        for rank in ranks.others:  # they are there
            rank.channel.send({"do": "answer"})
            assert rank.channel.receive(timeout_s=PATIENCE_S)[0] == {"number": rank.number}
        yield ranks
    finally:
        ranks.close()


def lost(ranks: Ranks) -> str:
    """Which rank is lost, and why."""
    with pytest.raises(RankLostError) as raised:
        ranks.give_up(RuntimeError("connection closed by peer"))
    assert ranks.lost == str(raised.value)
    return ranks.lost


def test_ranks_are_reached_and_leave_nothing() -> None:
    """Each rank gets what it is told, with bytes, and is gone once they are closed."""
    with opened(3) as ranks:
        pids = [rank.pid for rank in ranks.others]
        for rank in ranks.others:
            rank.channel.send({"do": "answer"}, b"x" * 70_000)
            message, data = rank.channel.receive(timeout_s=PATIENCE_S)
            assert (message, len(data)) == ({"number": rank.number}, 70_000)
        ranks.arm()
    assert ranks.lost == ""
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_rank_that_ends_is_named_with_its_last_words() -> None:
    """A rank that ends is what is lost, with its status and the last line of its log, and not who found that out."""
    with opened() as ranks:
        ranks.arm()
        ranks.others[0].channel.send({"do": "say", "text": "first\nno memory is left\n"})
        ranks.others[0].channel.send({"do": "exit", "status": 3})
        said = f"rank 1 of 2 (process {ranks.others[0].pid}) ended with status 3; the last line of its log: no memory"
        assert lost(ranks).startswith(said)
        with pytest.raises(RankLostError), ranks.taking_part(SILENCE_S):
            raise AssertionError("nothing is done with what is lost")


def test_a_rank_that_a_signal_ends_is_named() -> None:
    """A rank that a signal ends is named with the signal, and the others end with it."""
    with opened(3) as ranks:
        ranks.arm()
        ranks.others[1].kill()
        assert lost(ranks) == f"rank 2 of 3 (process {ranks.others[1].pid}) was ended by signal 9 (SIGKILL)"


def test_what_a_rank_raises_is_told_without_its_words() -> None:
    """The log of a rank that fails has the place in the code; what an exception says may be what a task said."""
    with opened() as ranks:
        ranks.arm()
        ranks.others[0].channel.send({"do": "fail"})
        assert "ended with status 1" in lost(ranks)
        assert "ValueError in join (spanning_fakes.py:" in ranks.lost
        assert "what a task said" not in ranks.lost


def test_a_stopped_rank_is_found_while_all_wait() -> None:
    """A rank that a signal has stopped is lost after the time in which nothing went on, and named for that."""
    told = list[str]()
    with opened(3) as ranks:
        ranks.arm()
        os.kill(ranks.others[1].pid, signal.SIGSTOP)
        with ranks.taking_part(SILENCE_S):
            ranks.beat()
            ranks.others[0].channel.send({"do": "beat"})
            ranks.others[0].channel.receive(timeout_s=PATIENCE_S)
            told.append(lost_while_waiting(ranks))
    assert told == [
        f"rank 2 of 3 (process {ranks.others[1].pid}) was stopped by a signal: nothing went on for {SILENCE_S:g} s"
    ]


def test_a_rank_that_takes_no_part_is_found_by_that() -> None:
    """Of ranks with which nothing goes on, the one is lost that has taken part least often."""
    with opened(3) as ranks:
        ranks.arm()
        with ranks.taking_part(SILENCE_S):
            ranks.beat()
            ranks.others[1].channel.send({"do": "beat"})
            ranks.others[0].channel.send({"do": "sleep"})
            why = lost_while_waiting(ranks)
    assert why == f"rank 1 of 3 (process {ranks.others[0].pid}) did not take part: nothing went on for {SILENCE_S:g} s"


def lost_while_waiting(ranks: Ranks) -> str:
    """What is told once somebody is lost for whom this process waits: its end of their channels ends."""
    ranks.others[-1].channel.sock.settimeout(PATIENCE_S)
    while ranks.others[-1].channel.sock.recv(1):
        pass
    return ranks.lost


def test_an_instance_with_use_tells_who_started_it() -> None:
    """What is lost before all have loaded raises there; what is lost then is told to who ends the process."""
    told = list[str]()
    ranks = open_ranks(LOADER, 2)
    ranks._on_lost = told.append
    ranks.others[0].kill()
    with pytest.raises(RankLostError, match="SIGKILL"):
        ranks.give_up(RuntimeError())
    with pytest.raises(RankLostError, match="SIGKILL"):
        ranks.arm()
    ranks.close()
    assert told == []
    with opened() as others:
        others._on_lost = told.append
        others.arm()
        others.others[0].kill()
        lost(others)
        assert told == [others.lost]


@pytest.mark.parametrize("size", [0, 1, MOST_RANKS + 1])
def test_impossible_numbers_of_ranks_are_refused(size: int) -> None:
    """Both numbers are named."""
    with pytest.raises(ValueError, match=f"{size} ranks are asked for; there may be from 2 to {MOST_RANKS}"):
        open_ranks(LOADER, size)
