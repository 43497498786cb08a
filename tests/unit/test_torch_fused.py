"""A decoder whose small steps are taken together, against the network that it was made of."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch

from inferd.plugin import TokenLimits
from inferd.testing.batches import Part, compute
from inferd_torch import attention
from inferd_torch.fused import TorchSteps, fuse
from inferd_torch.network import expected_window
from inferd_torch.pool import LayerShape
from inferd_torch.session import TorchSession
from inferd_torch.spans import attend_spans
from inferd_torch.split import attend_split
from inferd_torch.warming import find_kinds, warm

CONTEXT = 128
IDS = list(range(30, 75))
LIMITS = TokenLimits(
    vocabulary_size=tiny.VOCABULARY,
    context_tokens=CONTEXT,
    block_tokens=8,
    blocks=32,
    max_sequences=4,
    max_step_tokens=64,
    embedding_size=64,
    samples=True,
)


def make_session(network: Any) -> TorchSession:
    attention.register()
    network.set_attn_implementation(attention.NAME)
    config = network.config
    windows = {n: expected_window(config, n) for n in range(config.num_hidden_layers)}
    fused = fuse(network, windows=windows, context_tokens=CONTEXT, steps=TorchSteps)
    assert fused is not None
    width = network.model.layers[0].self_attn.head_dim
    return TorchSession(
        network,
        shapes=[LayerShape(heads=2, key_width=width, value_width=width)] * config.num_hidden_layers,
        limits=LIMITS,
        device=torch.device("cpu"),
        dtype=torch.float32,
        attend=(attend_split, attend_spans),
        fused=fused,
    )


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_fused_network_computes_what_transformers_does(name: str) -> None:
    """Chunks of a prompt and single rows beside another sequence get the logits of the network as a whole."""
    network = tiny.make_network(name)
    with torch.inference_mode():
        whole = network(input_ids=torch.tensor([IDS]))
        hidden = network.base_model(input_ids=torch.tensor([IDS])).last_hidden_state[0, -1]
    session = make_session(network)
    blocks, others = range(6), range(6, 12)
    given = [*compute(session, Part(token_ids=IDS[:20], blocks=blocks))[0]]
    given += [
        *compute(session, Part(token_ids=IDS[20:40], begin=20, blocks=blocks), Part(token_ids=[7], blocks=others))[0]
    ]
    for n in range(40, len(IDS)):
        given += [*compute(session, Part(token_ids=IDS[n : n + 1], begin=n, blocks=blocks))[0]]
    np.testing.assert_allclose(given, whole.logits[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(
        session._hidden if session._hidden is not None else hidden[None], hidden[None], atol=1e-4
    )


def test_merged_products_are_held_once() -> None:
    """The weights of the network are parts of the merged ones, and it still computes."""
    network = tiny.make_network("qwen2")
    with torch.inference_mode():
        before = network(input_ids=torch.tensor([IDS])).logits
    make_session(network)
    layer = network.model.layers[1]
    stored = {each.weight.untyped_storage().data_ptr() for each in (layer.self_attn.q_proj, layer.self_attn.v_proj)}
    stored |= {layer.self_attn.k_proj.weight.untyped_storage().data_ptr()}
    assert len(stored) == 1
    assert (
        layer.mlp.gate_proj.weight.untyped_storage().data_ptr() == layer.mlp.up_proj.weight.untyped_storage().data_ptr()
    )
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        torch.testing.assert_close(network(input_ids=torch.tensor([IDS])).logits, before)


@pytest.mark.parametrize(
    ("name", "changes"), [("gemma3", {}), ("qwen3_moe", {}), ("phi3", {}), ("llama", {"hidden_act": "gelu"})]
)
def test_what_is_made_of_other_steps_is_left_to_transformers(name: str, changes: dict[str, Any]) -> None:
    """A network of another family, or with another activation, is not fused."""
    network = tiny.make_network(name, **changes)
    assert fuse(network, windows={}, context_tokens=CONTEXT, steps=TorchSteps) is None


def test_warming_computes_a_step_of_each_kind() -> None:
    """Before it serves, a session computes single rows, spans, both and the largest step, with and without drawing."""
    session, seen = make_session(tiny.make_network("llama")), []
    step = session.step
    session.step = lambda batch: seen.append(batch) or step(batch)  # type: ignore[method-assign,func-returns-value]
    warm(session)
    counts = [np.diff(batch.starts).tolist() for batch in seen]
    assert counts == [each for each in find_kinds(LIMITS) for _ in range(2)]
    assert counts[0] == [1]
    assert [2, 1] in counts
    assert len(seen[-1].token_ids) == LIMITS.max_step_tokens
    assert [batch.sampling is None for batch in seen] == [True, False] * (len(seen) // 2)
