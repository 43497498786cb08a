"""Trainings by the wire, with real workers: what comes of them, and what becomes of them when something ends."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import training_pb2 as tp
from inferd_client import AsyncClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [{"text": f"text {number}", "label": ("red", "blue")[number % 3 == 0]} for number in range(40)]
CLASSIFY: dict[str, Any] = {"method": "classify", "batch": 4, "epochs": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with the backend that trains for tests."""
    folder = tmp_path_factory.mktemp("trained")
    async with kernel_here(folder) as kernel, AsyncClient(kernel.addresses[0]) as made:
        await made.create_model("slow", str(write_fake_model(folder, "slow", step_s=0.05)))
        yield made


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended."""
    told = [each async for each in client.watch_training(training_id)]
    assert told[-1].finish_time.seconds
    return told[-1]


async def test_a_classifier_is_trained_and_becomes_a_model(client: AsyncClient) -> None:
    """All steps are done in a worker of its own; what comes of them is a model that answers, with a card."""
    made = await client.train("topics", ROWS, recipe=CLASSIFY)
    assert (made.state, made.rows) == (tp.TRAINING_STATE_QUEUED, 40)
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    assert (found.steps, found.step, found.attempts) == (27, 27, 1)
    assert [each.step for each in found.judgements] == [9, 18, 27]
    curve = [each async for each in client.training_steps(made.training_id)]
    assert [each.step for each in curve] == [*range(1, 28)]
    last = found.judgements[-1]
    assert {each.label: each.support for each in last.labels} == {"blue": 2, "red": 2}
    assert sum(sum(row.rows) for row in last.confusion) == 4
    card = json.loads(found.card)
    assert card["data"]["digest"] == found.data_digest
    assert card["judged"]["figures"] == dict(last.figures)
    assert Path(found.result.path).parents[1].joinpath("card.md").read_text(encoding="utf-8").startswith("# topics")
    answer = await client.generate("topics", "hello", max_tokens=5)
    assert answer.text == "hello"
