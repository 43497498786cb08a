"""What tokens are worth by gradients and by attention, held against numbers that are found otherwise."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch

from inferd.plugin import AttributingSession, Attribution, AttributionPass, TokenLimits
from inferd.testing.batches import Part, make_batch
from inferd_torch import attention
from inferd_torch.attributing import attributions_of
from inferd_torch.packed.linear import PackedLinear
from inferd_torch.pool import LayerShape
from inferd_torch.session import TorchSession

CPU = torch.device("cpu")
LIMITS = TokenLimits(
    vocabulary_size=tiny.VOCABULARY,
    context_tokens=128,
    block_tokens=8,
    blocks=16,
    max_sequences=4,
    max_step_tokens=128,
    embedding_size=64,
)
IDS = np.array([30, 41, 7, 99, 12, 55, 31, 44], np.int32)
TOLD, BASELINE = 2, 3
GRADIENTS = AttributionPass(
    method=Attribution.GRADIENTS, token_ids=IDS, told=TOLD, places=np.array([1, 2, 4]), baseline_id=BASELINE
)


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny.make_network("llama")


@pytest.fixture
def session(network: Any) -> Iterator[TorchSession]:
    attention.register()
    network.set_attn_implementation(attention.NAME)
    shapes = [LayerShape(heads=2, key_width=16, value_width=16)] * 3
    yield TorchSession(network, shapes=shapes, limits=LIMITS, device=CPU, dtype=torch.float32)
    network.set_attn_implementation("eager")


def worth(network: Any, at: float) -> float:
    """The logarithm of the probability of the last tokens so far on the way, by transformers' own attention."""
    embed = network.get_input_embeddings()
    with torch.no_grad():
        own = embed(torch.from_numpy(IDS)[None].long())
        mixed = own.clone()
        for place in GRADIENTS.places.tolist():
            mixed[0, place] = at * own[0, place] + (1 - at) * embed.weight[BASELINE]
        logprobs = network(inputs_embeds=mixed, use_cache=False).logits[0].double().log_softmax(-1)
    return float(sum(logprobs[len(IDS) - TOLD + n - 1, IDS[len(IDS) - TOLD + n]] for n in range(TOLD)))


def test_gradients_are_the_slopes_of_the_way(session: TorchSession, network: Any) -> None:
    """At each point the sum over tokens is by how much the answer gets likelier there, and the others have none."""
    assert isinstance(session, AttributingSession)
    assert session.attributions == frozenset(Attribution)
    advanced = []
    found = [session.attribute(replace(GRADIENTS, at=at, advance=lambda: advanced.append(1))) for at in (0.2, 0.7)]
    network.set_attn_implementation("eager")
    step = 1e-3
    for at, each in zip((0.2, 0.7), found, strict=True):
        slope = (worth(network, at + step) - worth(network, at - step)) / (2 * step)
        assert each.shape == (len(IDS) - TOLD,)
        assert each.sum() == pytest.approx(slope, rel=1e-2, abs=1e-2)
        assert not each[[0, 3, 5]].any()
    assert len(advanced) >= 2 * 3  # each layer


def test_attention_is_rolled_out_as_transformers_shows_it(session: TorchSession, network: Any) -> None:
    """Shares are those that transformers' own attentions give, layer by layer, each half and half with itself."""
    found = session.attribute(replace(GRADIENTS, method=Attribution.ATTENTION))
    network.set_attn_implementation("eager")
    with torch.no_grad():
        shown = network(torch.from_numpy(IDS)[None].long(), output_attentions=True, use_cache=False).attentions
    rolled = torch.eye(len(IDS))
    for each in shown:
        rolled = (each[0].mean(0) @ rolled + rolled) / 2
    expected = rolled[len(IDS) - TOLD - 1 : len(IDS) - 1].mean(0)
    np.testing.assert_allclose(found, expected[: len(IDS) - TOLD], atol=1e-5)
    assert 0 < found.sum() <= 1.0001


def test_steps_are_as_before(session: TorchSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look into the network changes nothing of what steps compute, not even one that fails."""
    batch = make_batch([Part(token_ids=IDS.tolist(), blocks=range(1), wanted=[len(IDS) - 1])])
    before = session.step(batch).logits
    session.attribute(GRADIENTS)
    session.attribute(replace(GRADIENTS, method=Attribution.ATTENTION))
    with monkeypatch.context() as patch:
        patch.setattr(session._network.model.layers[1].mlp, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.attribute(GRADIENTS)
    assert np.array_equal(session.step(batch).logits, before)


def test_weights_of_few_bits_have_no_gradients() -> None:
    """Where products are of packed weights, attention alone is told."""
    packed = torch.nn.Sequential(
        torch.nn.Linear(8, 8), PackedLinear(8, 8, group=0, zeros=False, ordered=False, scales=torch.float32, bias=None)
    )
    assert attributions_of(packed) == {Attribution.ATTENTION}
    assert attributions_of(packed[:1]) == set(Attribution)
