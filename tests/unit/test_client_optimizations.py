"""`optimize_model` of both clients."""

from typing import Any

import pytest

from inferd_api.v1 import optimize_pb2 as op
from inferd_client import AsyncClient, Client, InferdError

ASKED: dict[str, Any] = {
    "target": "latency",
    "most_loss": 0.02,
    "least_agreement": 0.9,
    "vary": ["threads"],
    "trials": 5,
    "in_flight": 3,
    "prompt_tokens": 7,
    "output_tokens": 9,
    "text_tokens": 64,
    "seed": 2,
    "most_weights_bytes": 90_000_000,
}


@pytest.fixture
def told(scripted: Any) -> list[op.OptimizeModelResponse]:
    """What the scripted kernel tells."""
    scripted.tried[:] = [
        op.OptimizeModelResponse(plan=op.OptimizationPlan(trials=5)),
        op.OptimizeModelResponse(report=op.OptimizationReport(gain=1.5, settings={"threads": "1"})),
    ]
    return [*scripted.tried]


async def test_both_clients_ask_alike_and_tell_all(scripted: Any, told: list[op.OptimizeModelResponse]) -> None:
    """Each option reaches the kernel, none where it was left out; what comes is told as it comes."""
    wanted = op.OptimizeModelRequest(model="echo", text="t", **{**ASKED, "target": op.OPTIMIZATION_TARGET_LATENCY})
    usual = op.OptimizeModelRequest(model="echo", text="t")
    with Client(scripted.address) as client:
        assert [*client.optimize_model("echo", "t", **ASKED)] == told
        assert [*client.optimize_model("echo", "t")] == told
    async with AsyncClient(scripted.address) as other:
        assert [each async for each in other.optimize_model("echo", "t", **ASKED)] == told
        assert [each async for each in other.optimize_model("echo", "t")] == told
    assert scripted.requests == [wanted, usual, wanted, usual]


def test_what_cannot_be_is_refused(scripted: Any) -> None:
    """A target that is none by the client, a model that is none by the kernel."""
    with Client(scripted.address) as client:
        with pytest.raises(ValueError, match="throughput"):
            client.optimize_model("echo", "t", target="size")
        with pytest.raises(InferdError, match="ecko"):
            next(client.optimize_model("ecko", "t"))
