"""What the ranks other than 0 do: they load their part, then whatever rank 0 does."""

from pathlib import Path
from typing import Any

from inferd.plugin import LoadError
from inferd.plugin.ranks import Seat
from inferd_torch import loading
from inferd_torch.session import TorchSession
from inferd_torch.spanning.gathering import JOIN_S
from inferd_torch.spanning.group import Group
from inferd_torch.spanning.messages import read_batch, read_request


def serve(seat: Seat) -> None:
    """Be a rank, until rank 0 is gone."""
    message, _ = seat.channel.receive()
    request = read_request(message, seat.number)
    try:
        model = loading.examine(request)
        network = loading.load_part(model, seat.number)
    except LoadError as error:
        seat.channel.send({"error": str(error)})
        return
    seat.channel.send({})
    message, _ = seat.channel.receive()
    group = Group(
        Path(message["path"]),
        rank=seat.number,
        ranks=len(request.ranks),
        device=model.device,
        timeout_s=2 * JOIN_S,
        beat=seat.beat,
    )
    session = loading.make_session(model, network, group, graphs=bool(request.settings["cuda_graphs"]))
    seat.channel.send({})
    while True:
        message, data = seat.channel.receive()
        _obey(session, seat, message, data)


def _obey(session: TorchSession, seat: Seat, message: dict[str, Any], data: bytes) -> None:
    match message["do"]:
        case "step":
            session.follow(read_batch(message, data))
        case "copy":
            session.copy_blocks(message["pairs"])
        case "export":
            seat.channel.send({}, bytes(session.export_block(message["block"])))
        case "import":
            session.import_block(message["block"], data)
        case what:
            raise ValueError(f"rank 0 said {what!r}, which is no order")
