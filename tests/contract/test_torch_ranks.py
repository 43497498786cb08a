"""The torch backend over two ranks on one processor, against itself in one process."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import forked_ranks
import gguf
import tiny_models
import tiny_networks as tiny
import torch
from transformers.modeling_gguf_pytorch_utils import TensorProcessor

from inferd.plugin import LoadedModel, LoadError, LoadRequest, TokenSession, ranks
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd.testing.contract import BackendContract
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC
from inferd_torch.spanning.gguf_parts import Decoded
from inferd_torch.spanning.session import SpanningSession

RANKS = ("cpu:0", "cpu:0")
NEAR_TIE = 1e-4  # of a logit: sums in another order may decide such a step otherwise
PROMPTS, OUTPUT_TOKENS = 6, 24


@pytest.fixture(autouse=True, scope="module")
def _ranks() -> Iterator[None]:
    """Ranks are forked, and share cores: threads that wait for each other would cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        stem = forked_ranks.Stem()
        patch.setattr(ranks, "_start", stem.start)
        yield
        stem.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


def request_for(folder: Path, among: tuple[str, ...] = RANKS) -> LoadRequest:
    values = read_settings(SPEC, {"block_tokens": "8"})
    return LoadRequest(path=folder, device="cpu:0", settings=values, capacity_bytes=4 << 30, ranks=among)


def load(request: LoadRequest) -> Any:
    return TorchBackend().load(request, lambda _: None).session


def greedy(session: TokenSession) -> list[list[tuple[int, float]]]:
    """What follows some prompts, each token with how far it is above the second best."""
    outputs = []
    vocabulary = session.limits.vocabulary_size
    for prompt in np.random.default_rng(7).integers(vocabulary, size=(PROMPTS, 11)).tolist():
        blocks, output = list(range(6)), list[tuple[int, float]]()
        part = Part(token_ids=prompt, blocks=blocks, wanted=[len(prompt) - 1])
        while len(output) < OUTPUT_TOKENS:
            logits = compute(session, part)[0][0]
            second, best = np.sort(logits)[-2:]
            output.append((int(logits.argmax()), float(best - second)))
            part = Part(token_ids=[output[-1][0]], begin=len(prompt) + len(output) - 1, blocks=blocks, wanted=[0])
        outputs.append(output)
    return outputs


def near_ties(one: TokenSession, other: TokenSession) -> int:
    """How many outputs part at a near-tie; parting anywhere else fails."""
    count = 0
    for mine, its in zip(greedy(one), greedy(other), strict=True):
        apart = next((n for n, (a, b) in enumerate(zip(mine, its, strict=True)) if a[0] != b[0]), None)
        if apart is not None:
            assert mine[apart][1] < NEAR_TIE, f"token {apart} differs with a margin of {mine[apart][1]}"
            count += 1
    return count


class TestRanks(BackendContract):
    """The suite passes over two ranks, of 8 heads with 4 of keys and values; greedy tokens are those of one process."""

    test_takes_no_more_than_measured = None  # it looks at one process; of what each holds, see below
    test_load_and_close_again = None  # that is done for the blocks that are kept

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        folder = tmp_path_factory.mktemp("llama")
        tiny.write_network("llama", folder, num_attention_heads=8, num_key_value_heads=4, head_dim=8)
        return request_for(folder)

    def test_greedy_tokens_are_those_of_one_process(self, load_request: LoadRequest, model: LoadedModel) -> None:
        """Two ranks give the token ids of one, but where two tokens are as likely."""
        one = load(replace(load_request, ranks=()))
        assert near_ties(one, model.session) <= 1
        assert model.description.compute_format == "FLOAT32 by 2 ranks"
        one.close()

    def test_no_rank_holds_the_whole(
        self, backend: TorchBackend, load_request: LoadRequest, model: LoadedModel
    ) -> None:
        """What is measured is what both hold; a rank has half of all but the embedding, and half of the KV blocks."""
        whole, spread = backend.measure(replace(load_request, ranks=())), backend.measure(load_request)
        session: Any = model.session
        assert isinstance(session, SpanningSession)
        network = session._own._network
        own = sum(weight.numel() * 4 for weight in network.parameters())
        outside = sum(weight.numel() * 4 for name, weight in network.named_parameters() if "proj" not in name)
        assert own == spread.weights_bytes // 2
        assert own - outside == (whole.weights_bytes - outside) // 2
        layers = session._own._pool.layers
        assert {(keys.shape[2], values.shape[2]) for keys, values in layers} == {(2, 2)}  # of 4 heads
        assert sum(keys.nbytes + values.nbytes for keys, values in layers) == spread.kv_bytes // 2


def test_tied_embeddings_biases_and_norms_of_heads(tmp_path: Path) -> None:
    """Of qwen3 with tied embeddings, and a bias that is added to a sum over ranks, tokens are those of one process."""
    network = tiny.make_network("qwen3", attention_bias=True, tie_word_embeddings=True)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    network.save_pretrained(tmp_path)
    tiny.write_tokenizer(tmp_path)
    one, two = load(request_for(tmp_path, ())), load(request_for(tmp_path))
    assert near_ties(one, two) <= 1
    one.close()
    two.close()


def test_a_gguf_file_is_divided_as_well(tmp_path: Path) -> None:
    """Of a GGUF file a rank decodes its rows and columns alone; tokens are those of one process."""
    path = tiny_models.write_model(tiny_models.MODELS["llama"], tmp_path / "llama.gguf")
    one, two = load(request_for(path, ())), load(request_for(path))
    assert near_ties(one, two) <= 1
    one.close()
    two.close()


def test_blocks_of_a_gguf_file_are_cut_anywhere() -> None:
    """Rows, and columns that begin inside of a block, are decoded as they are of the whole."""
    numbers = np.random.default_rng(3).standard_normal((600, 64), dtype=np.float32)
    stored = gguf.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
    tensor = SimpleNamespace(name="w", shape=[64, 600], data=stored, tensor_type=gguf.GGMLQuantizationType.Q8_0)
    decoded, whole = Decoded(tensor, TensorProcessor()), gguf.dequantize(stored, tensor.tensor_type)  # type: ignore[arg-type]
    assert decoded.shape == [600, 64]
    for place in ((slice(100, 200),), (slice(None), slice(32, 64)), (slice(None), slice(16, 48))):
        assert np.array_equal(decoded[place].numpy(), whole[place])


def test_a_rank_that_cannot_load_is_named(tmp_path: Path) -> None:
    """What one rank cannot load is a `LoadError` with its number and its device."""
    tiny.write_network("llama", tmp_path)
    with pytest.raises(LoadError, match="rank 1 of 2, on cuda:7: "):
        load(request_for(tmp_path, ("cpu:0", "cuda:7")))


@pytest.mark.parametrize(
    ("name", "changes", "count", "why"),
    [
        ("qwen3_moe", {}, 2, "mlp.experts.gate_up_proj of qwen3_moe would be divided among ranks as 'packed_colwise'"),
        ("phi3", {}, 2, "qkv_proj of phi3 would be divided among ranks as 'colwise_gather_output'"),
        ("llama", {}, 4, "num_key_value_heads is 2, which 4 ranks cannot share out evenly"),
        ("llama", {"intermediate_size": 97}, 2, "intermediate_size is 97, which 2 ranks cannot share out evenly"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    tmp_path: Path, *, name: str, changes: dict[str, int], count: int, why: str
) -> None:
    """Experts, fused projections, and heads or widths that are no multiples are refused by name, with both numbers."""
    tiny.write_network(name, tmp_path, **changes)
    with pytest.raises(LoadError, match=why):
        TorchBackend().measure(request_for(tmp_path, ("cpu:0",) * count))


def test_ranks_and_devices_have_to_agree(tmp_path: Path, backend: TorchBackend) -> None:
    """A number of ranks that is none of the devices that were given is refused with both numbers."""
    tiny.write_network("llama", tmp_path)
    with pytest.raises(LoadError, match="setting 'ranks' is 4, but the model is given 2 devices"):
        backend.measure(replace(request_for(tmp_path), settings=read_settings(SPEC, {"ranks": "4"})))
