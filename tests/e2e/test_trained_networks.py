"""Classifiers that the backend `torch` trains for clients, from a model that is known, and serves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from classifier_rows import TOPICS, ask, make_rows, write_rows

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

from tiny_encoders import write_encoder

from inferd.testing.kernel import kernel_process
from inferd_api.v1 import training_pb2 as tp
from inferd_client import Client
from inferd_client.errors import InvalidFieldError
from inferd_torch.backend import TorchBackend

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]  # two workers that import torch
RECIPE = {"epochs": 2.0, "batch": 16, "learning_rate": 8e-3, "most_tokens": 16}
TEXTS = ["salt tide wave", "clay root worm " * 9]


def test_a_network_learns_labels_and_answers_as_every_classifier(tmp_path: Path) -> None:
    """A known encoder becomes a model of labels: what a session alone tells is told, and it infers as `heads` does."""
    (tmp_path / "base").mkdir()
    base = write_encoder(tmp_path / "base", [word for topic in TOPICS.values() for word in topic])
    asked = ask(write_rows(tmp_path / "rows.jsonl", make_rows(60)), path=base, **RECIPE)
    alone: Any = TorchBackend().train(replace(asked, capacity_bytes=4 << 30, cores=1), lambda _: None)
    for _ in range(alone.steps):
        alone.step()
    judged = alone.evaluate()
    with kernel_process(tmp_path / "kernel") as kernel, Client(kernel.address) as client:
        client.create_model("base", str(base))
        made = client.train("topics", make_rows(60), recipe={"method": "classify", **RECIPE}, model="base")
        assert made.backend == "torch"  # of those that train classifiers the one that loads the base
        told = list(client.watch_training(made.training_id))[-1]
        assert told.state == tp.TRAINING_STATE_SUCCEEDED, told.error
        last = told.judgements[-1]
        assert last.loss == pytest.approx(judged.loss, rel=1e-3)
        assert dict(last.figures) == pytest.approx(dict(judged.figures))
        assert tuple(tuple(row.rows) for row in last.confusion) == judged.confusion
        assert '"method": "classify"' in told.card
        found = client.infer("topics", {"text": TEXTS})
        assert sorted(found["label"][0].tolist()) == [each.label for each in last.labels] == ["sea", "sky", "soil"]
        assert found["label_score"].sum(1) == pytest.approx([1, 1], abs=1e-4)
        assert found["cut"].tolist() == [0, 13]  # of 27 words and what stands around them 16 are read
        assert client.get_model("topics").backend == "torch"
        for recipe, why in (
            ({"rank": 4}, r"rank is given, and method is CLASSIFY; .*'lora' as tune"),
            ({"tune": "all"}, r"tune is 'all'; it must be one of full, lora, head"),
            ({"method": "full", "tune": "lora"}, r"tune is given, and method is FULL; it is of CLASSIFY"),
        ):
            with pytest.raises(InvalidFieldError, match=why):
                client.train("other", make_rows(30), recipe={"method": "classify", **recipe}, model="base")
