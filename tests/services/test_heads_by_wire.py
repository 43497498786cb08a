"""Classifiers that the backend `heads` trains for clients, and serves."""

from pathlib import Path

import pytest
from classifier_rows import ask, make_rows, write_rows

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import training_pb2 as tp
from inferd_client import AsyncClient
from inferd_heads.backend import HeadsBackend

ROWS = make_rows(60)


@pytest.mark.asyncio
async def test_a_training_by_a_kernel_is_that_of_the_backend_alone(tmp_path: Path) -> None:
    """What a kernel has trained has the bytes of a session that nobody disturbs, tells its labels, and is updated."""
    training = HeadsBackend().train(ask(write_rows(tmp_path / "rows.jsonl", ROWS), epochs=2.0), lambda _: None)
    for _ in range(training.steps):
        training.step()
    judged = training.evaluate()
    (tmp_path / "alone").mkdir()
    training.export(tmp_path / "alone")
    training.close()
    async with kernel_here(tmp_path, backends=("heads",)) as kernel, AsyncClient(kernel.addresses[0]) as client:
        made = await client.train("topics", ROWS, recipe={"method": "classify", "epochs": 2}, backend="heads")
        told = [each async for each in client.watch_training(made.training_id)][-1]
        assert told.state == tp.TRAINING_STATE_SUCCEEDED, told.error
        last = told.judgements[-1]
        assert dict(last.figures) == dict(judged.figures)
        assert last.loss == judged.loss
        assert tuple(tuple(row.rows) for row in last.confusion) == judged.confusion
        for file in sorted((tmp_path / "alone").iterdir()):
            assert (Path(told.result.path) / file.name).read_bytes() == file.read_bytes()
        found = await client.infer("topics", {"text": ["salt tide", "moon and star"]})
        assert found["label"][:, 0].tolist() == ["sea", "sky"]
        assert (await client.get_model("topics")).backend == "heads"
        recipe = {"method": "classify", "epochs": 1}
        again = await client.train("topics", make_rows(30, seed=2), recipe=recipe, backend="heads", replace=True)
        told = [each async for each in client.watch_training(again.training_id)][-1]
        assert (told.state, told.result.version) == (tp.TRAINING_STATE_SUCCEEDED, 2)
        wrong = await client.train("none", [*ROWS, {"text": "a"}], recipe=recipe, backend="heads")
        told = [each async for each in client.watch_training(wrong.training_id)][-1]
        assert told.state == tp.TRAINING_STATE_FAILED
        assert "row 61 of the rows has no field 'label'" in told.error.message
