"""Encoders other than BERT, which make embeddings: hidden states against transformers, on tiny random networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.families import FAMILIES
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from encoder_to_gguf import ENCODERS, VOCABULARY, write_encoder  # noqa: E402 - it needs both

torch.set_num_threads(1)
LENGTHS = (1, 17, 100, 2, 11, 64)  # of sequences in one step: shorter and longer than a window


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Of sequences of several lengths in one step, in scattered blocks; half a window is behind a token."""
    network = write_encoder(name, tmp_path / "tiny.gguf")
    settings = read_settings(SPEC, {"kv_tokens": "2048", "compute": "exact"})
    request = LoadRequest(path=tmp_path / "tiny.gguf", device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    model = CpuBackend().load(request, lambda _: None)
    assert model.embedding.add_eos
    draw = np.random.default_rng(1)
    prompts = [draw.integers(3, VOCABULARY, size=count).tolist() for count in LENGTHS]
    free = draw.permutation(model.session.limits.blocks).tolist()
    parts = [Part(token_ids=ids, blocks=[free.pop() for _ in range(-(-len(ids) // 16))], wanted=[]) for ids in prompts]
    batch = make_batch(parts)
    result = model.session.step(replace(batch, hidden_rows=np.arange(len(batch.token_ids), dtype=np.int32)))
    with torch.inference_mode():
        states = [network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in prompts]
    expected = np.concatenate(states)
    np.testing.assert_allclose(result.hidden, expected, atol=2e-4 * np.abs(expected).max())
    model.session.close()


def test_every_encoder_is_compared() -> None:
    """BERT and Nomic BERT are in test_bert.py, the others here."""
    encoders = {name for name, family in FAMILIES.items() if family.encodes}
    assert encoders == {"bert", "nomic-bert", *ENCODERS}
