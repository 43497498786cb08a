"""Rank 0 has all ranks load: each reads its part at the same time, then they find each other."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.channel import ClosedError
from inferd.plugin.ranks import RankLostError, Ranks, open_ranks
from inferd_torch import loading
from inferd_torch.spanning.group import Group
from inferd_torch.spanning.messages import write_request
from inferd_torch.spanning.session import SpanningSession

LOADER = "inferd_torch.backend:TorchBackend"
JOIN_S = 120.0  # in which ranks that have loaded find each other, and record what they record


def load_spanning(model: loading.Examined, request: LoadRequest) -> SpanningSession:
    """Load a model that was examined over its ranks.

    Raises:
        LoadError: One of them could not load its part; it is named.
    """
    ranks = open_ranks(LOADER, len(request.ranks))
    try:
        return _gather(model, request, ranks)
    except (RankLostError, ClosedError) as error:
        with suppress(RankLostError):
            ranks.give_up(error)
        ranks.close()
        raise LoadError(f"{request.path}: {ranks.lost}") from error
    except BaseException:
        ranks.close()
        raise


def _gather(model: loading.Examined, request: LoadRequest, ranks: Ranks) -> SpanningSession:
    silence_s = float(request.settings["rank_silence_s"] or 0)
    for rank in ranks.others:
        rank.channel.send(write_request(request))
    network = loading.load_part(model, 0)
    for rank in ranks.others:
        _expect(request, ranks, rank.number, rank.channel.receive()[0])
    folder = TemporaryDirectory(prefix="ranks-")
    with ranks.taking_part(JOIN_S):
        path = Path(folder.name, "store")
        for rank in ranks.others:
            rank.channel.send({"do": "join", "path": str(path)})
        group = Group(
            path, rank=0, ranks=ranks.size, device=model.device, timeout_s=_patience_s(silence_s), beat=ranks.beat
        )
        session = loading.make_session(model, network, group, graphs=bool(request.settings["cuda_graphs"]))
        for rank in ranks.others:
            _expect(request, ranks, rank.number, rank.channel.receive()[0])
    ranks.arm()
    return SpanningSession(session, ranks, group, folder, silence_s=silence_s)


def _patience_s(silence_s: float) -> float:
    """How long the library waits: longer than who watches, who knows whom it waits for."""
    return 2 * max(silence_s, JOIN_S)


def _expect(request: LoadRequest, ranks: Ranks, number: int, message: dict[str, Any]) -> None:
    if "error" in message:
        raise LoadError(f"rank {number} of {ranks.size}, on {request.ranks[number]}: {message['error']}")
