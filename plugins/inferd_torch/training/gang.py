"""What the workers of a training of several tell each other: rows and weights from the one that leads, gradients to it.

Only that one keeps what the optimiser keeps, and changes weights; the others are given them before each step. So all
compute with the very same weights, whatever processors they have, and one that is lost takes nothing along. By gloo,
which goes through the memory of the host also for devices.
"""

import hmac
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from secrets import token_bytes, token_hex
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from inferd.plugin import TrainError
from inferd.plugin.ranks import RankLostError

STEP: Final = 1
BUCKET: Final = 1 << 23  # numbers that are summed at a time
WORDS_BYTES: Final = 1 << 31  # most of what is told of one step: its rows
WORD_BYTES: Final = 16  # of what the kernel tells its workers alone
_PATIENCE: Final = timedelta(days=7)  # in steps; the kernel sees who is lost, and ends those that wait for it
_ASKED_BYTES: Final = 32  # that each has the others prove themselves with
_DIGEST: Final = "sha256"


class Gang:
    """The workers of a training, as one of them has them.

    Args:
        store: By which they find each other.
        rank: Which this one is; 0 leads.
        ranks: How many there are.
        address: Of this machine, at which the others reach it.
        join_s: In which all find each other.
        word: That all know, and nobody else who reaches the ports.

    Raises:
        RankLostError: One did not come, or is a stranger.
    """

    def __init__(self, store: Any, *, rank: int, ranks: int, address: str, join_s: float, word: str) -> None:
        self.rank, self.ranks = rank, ranks
        library: Any = dist  # whose types do not name all that it has
        options = library.ProcessGroupGloo._Options()  # noqa: SLF001 - it has no public name
        options._devices = [library.ProcessGroupGloo.create_device(hostname=address)]  # noqa: SLF001 - likewise
        options._timeout = timedelta(seconds=join_s)  # noqa: SLF001 - likewise
        with losing(f"one did not come within {join_s:g} s (train.join_s)"):
            self._group = library.ProcessGroupGloo(store, rank, ranks, options)
            self._prove(word.encode())

    def _prove(self, word: bytes) -> None:
        """Have each prove to all others that it knows the word, before anything is told.

        Raises:
            RankLostError: One does not.
        """
        asked = b"".join(self._gather(token_bytes(_ASKED_BYTES)))
        proofs = [hmac.digest(word, rank.to_bytes(4, "big") + asked, _DIGEST) for rank in range(self.ranks)]
        for rank, given in enumerate(self._gather(proofs[self.rank])):
            if not hmac.compare_digest(given, proofs[rank]):
                raise RankLostError(f"who came as rank {rank} does not know the word of this training: a stranger")

    def _gather(self, own: bytes) -> list[bytes]:
        """What each has, by rank; of one length."""
        each = [torch.zeros(len(own), dtype=torch.uint8) for _ in range(self.ranks)]
        self._group.allgather([each], [torch.frombuffer(bytearray(own), dtype=torch.uint8)]).wait()
        return [one.numpy().tobytes() for one in each]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Have all have what the one that leads has in some tensors, in place.

        Raises:
            RankLostError: One is lost.
        """
        for some in _buckets(tensors):
            flat = torch.cat([each.detach().flatten().cpu() for each in some])
            self._broadcast(flat)
            if self.rank:
                _unpack(flat, some)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Have the one that leads have the sums of what all have in some tensors, in place; as 32-bit numbers.

        Raises:
            RankLostError: One is lost.
        """
        for some in _buckets(tensors):
            flat = torch.cat([each.detach().flatten().float().cpu() for each in some])
            options: Any = dist.ReduceOptions()
            options.reduceOp, options.rootRank, options.rootTensor = dist.ReduceOp.SUM, 0, 0
            options.timeout = _PATIENCE
            with losing("one is lost"):
                self._group.reduce([flat], options).wait()
            if not self.rank:
                _unpack(flat, some)

    def tell(self, said: dict[str, Any]) -> None:
        """Tell the others what is to be done."""
        words = json.dumps(said).encode()
        if len(words) > WORDS_BYTES:
            raise TrainError(f"the rows of a step have {len(words)} bytes; at most {WORDS_BYTES}: lower 'batch'")
        self._broadcast(torch.tensor([len(words)], dtype=torch.int64))
        self._broadcast(torch.frombuffer(bytearray(words), dtype=torch.uint8))

    def hear(self) -> dict[str, Any]:
        """What the one that leads tells, as soon as it does.

        Raises:
            RankLostError: One is lost.
        """
        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(size)
        if not 0 < (count := int(size.item())) <= WORDS_BYTES:
            raise RankLostError(f"rank 0 told {count} bytes; there may be 1 to {WORDS_BYTES}")
        words = torch.zeros(count, dtype=torch.uint8)
        self._broadcast(words)
        said: dict[str, Any] = json.loads(words.numpy().tobytes())
        return said

    def _broadcast(self, tensor: Tensor) -> None:
        options: Any = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, _PATIENCE
        with losing("one is lost"):
            self._group.broadcast([tensor], options).wait()


def listen(ranks: int, address: str, join_s: float) -> tuple[Any, str]:
    """A store at a port that is free at this address, and what others need to come: where that is, and a word.

    Raises:
        TrainError: This machine has no such address.
    """
    library: Any = dist
    try:
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((address, 0), family=family) as made:
            port, descriptor = made.getsockname()[1], os.dup(made.fileno())
        store = library.TCPStore(
            address, port, ranks, True, timedelta(seconds=join_s), False, master_listen_fd=descriptor
        )
    except (OSError, RuntimeError) as error:
        raise TrainError(f"other workers cannot be awaited at {address!r} (train.address): {_line(error)}") from error
    return store, f"{address} {port} {token_hex(WORD_BYTES)}"


def attend(meeting: str, *, rank: int, ranks: int, join_s: float) -> Gang:
    """Go where the one that leads awaits the others.

    Raises:
        RankLostError: It is not there, or another one did not come.
    """
    library: Any = dist
    address, port, word = meeting.rsplit(" ", 2)
    with losing(f"rank 0 is not at {address!r}, port {port}"):
        store = library.TCPStore(address, int(port), ranks, False, timedelta(seconds=join_s), False)
        own = _own_address(address, int(port))
    return Gang(store, rank=rank, ranks=ranks, address=own, join_s=join_s, word=word)


@contextmanager
def losing(what: str) -> Iterator[None]:
    """What is in this ends when a worker does.

    Raises:
        RankLostError: One has.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:  # DistStoreError and DistNetworkError are of the former
        if isinstance(error, RankLostError):
            raise
        raise RankLostError(f"{what}: {_line(error)}") from error


def _own_address(address: str, port: int) -> str:
    """At which others reach this machine by the way that leads to an address; nothing is sent."""
    family, kind, _, _, there = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as made:
        made.connect(there)
        return str(made.getsockname()[0])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type one after the other, together of at most so many numbers, or one alone."""
    some: list[Tensor] = []
    for each in tensors:
        if some and (sum(one.numel() for one in some) + each.numel() > BUCKET or each.dtype != some[0].dtype):
            yield some
            some = []
        some.append(each)
    if some:
        yield some


def _unpack(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for part, each in zip(torch.split(flat, [each.numel() for each in tensors]), tensors, strict=True):
            each.copy_(part.view_as(each))


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
