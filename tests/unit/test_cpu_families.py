"""Each architecture against transformers, on tiny random networks in the files that the usual converter makes."""

from pathlib import Path

import numpy as np
import pytest

from inferd.plugin import LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.families import FAMILIES
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_families  # noqa: E402 - what is imported below needs both
from greedy_ids import PROMPTS, generate, generate_with_transformers  # noqa: E402
from network_to_gguf import write_network  # noqa: E402

torch.set_num_threads(1)  # of small products, more only wait for each other


def load(path: Path, **settings: str) -> TokenSession:
    request = LoadRequest(
        path=path,
        device="cpu:0",
        settings=read_settings(SPEC, {"kv_tokens": "1024", **settings}),
        capacity_bytes=1 << 30,
    )
    return CpuBackend().load(request, lambda _: None).session


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_greedy_ids_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Ten prompts, 32 tokens each, from the file of each architecture."""
    network = write_network(name, tmp_path / "tiny.gguf")
    session = load(tmp_path / "tiny.gguf", compute="exact")
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor(PROMPTS[:1])).logits[0].numpy()
    (logits,) = compute(session, Part(token_ids=PROMPTS[0].tolist(), blocks=range(60, 64)))
    np.testing.assert_allclose(logits, expected, atol=3e-4 * np.abs(expected).max())
    assert generate(session).tolist() == generate_with_transformers(network).tolist()
    session.close()


def test_every_architecture_has_a_reference() -> None:
    """No architecture is offered that nothing was compared with."""
    compared = {family.architecture for family in tiny_families.FAMILIES.values()}
    unlike = {"minicpm"}  # of the parts of granite; test_hf_own.py
    unlike |= {name for name, family in FAMILIES.items() if family.encodes}  # test_bert.py, test_encoders.py
    assert set(FAMILIES) - compared == unlike
