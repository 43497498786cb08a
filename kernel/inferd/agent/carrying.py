"""The streams of workers, each again where it broke, as long as the connection of the host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import structlog

from inferd.errors import words_of
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_client import InferdError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.agent.connection import KernelConnection
    from inferd.agent.hosted import HostedWorker
    from inferd.runtime.signal import Signal

AGAIN_S = 0.2  # between two streams of a worker

log = structlog.get_logger()


async def carry_all(
    connection: KernelConnection,
    hosted: Mapping[int, HostedWorker],
    changed: Signal,
    opening: Callable[[int], service.CarryOpening],
) -> None:
    """Carry the frames of all workers, those too that are started meanwhile, until this is cancelled.

    Args:
        connection: To the kernel.
        hosted: The workers, by launch.
        changed: Tells when there may be another one.
        opening: How the stream of one begins.
    """
    carried: dict[int, HostedWorker] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            seen = changed.version
            for launch_id, worker in hosted.items():
                if worker.runs and carried.get(launch_id) is not worker:
                    carried[launch_id] = worker
                    group.create_task(_carry(connection, worker, opening(launch_id)), name=f"frames {launch_id}")
            carried = {launch_id: worker for launch_id, worker in carried.items() if launch_id in hosted}
            await changed.wait(seen)


async def _carry(connection: KernelConnection, worker: HostedWorker, opening: service.CarryOpening) -> None:
    """Carry the frames of one, until it has ended or the kernel has given it up.

    What breaks a stream is tried again. Whatever else happens ends this worker, of which the kernel is told, and no
    other.
    """
    while not worker.exchange.closed:
        try:
            await _carry_once(connection, worker, opening)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:  # it was given up, and its end is ordered
                return
        except (OSError, InferdError) as error:  # of a ticket: the next one may be there
            log.warning("a stream of a worker could not be begun", launch=worker.launch_id, why=words_of(error))
        except Exception as error:
            log.exception("the frames of a worker cannot be carried", launch=worker.launch_id)
            worker.exchange.close(f"a defect of its agent: {type(error).__name__}")
            return
        await asyncio.sleep(AGAIN_S)


async def _carry_once(connection: KernelConnection, worker: HostedWorker, opening: service.CarryOpening) -> None:
    exchange, stream = worker.exchange, await connection.carry()
    try:
        received = wire.Parcels(received=exchange.received)
        first = await stream.open(service.CarryRequest(opening=opening, parcels=received))
        if first is not None:
            await exchange.run(first.parcels.received, stream.read, stream.writer(service.CarryRequest))
    finally:
        stream.cancel()
