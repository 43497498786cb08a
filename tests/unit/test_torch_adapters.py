"""Adapters in the steps of the torch backend: against merged weights, beside each other, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.plugin.session import AdaptingSession
from inferd.testing.batches import Part, make_batch

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_pictures  # noqa: E402 - what is imported needs both
import transformers  # noqa: E402
from tiny_adapters import draw, merged_logits, write_gguf_adapter, write_peft  # noqa: E402 - what is imported needs both
from tiny_networks import COMMON, write_network, write_tokenizer  # noqa: E402

from inferd_torch.adapters import Adapting  # noqa: E402
from inferd_torch.backend import TorchBackend  # noqa: E402
from inferd_torch.plugin import SPEC  # noqa: E402

torch.set_num_threads(1)
IDS = [(11 * n + 3) % 250 for n in range(30)]


def load(folder: Path) -> Any:
    given = read_settings(SPEC, {"kv_tokens": "1024"})
    request = LoadRequest(path=folder, device="cpu:0", settings=given, capacity_bytes=1 << 30)
    return TorchBackend().load(request, lambda _: None).session


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network, its session on the processor, and adapters of both kinds."""
    at = tmp_path_factory.mktemp("torch")
    network = write_network("llama", at / "model")
    session = load(at / "model")
    matrices = [draw(network, seed) for seed in range(2)]
    files = [write_peft(matrices[0], at / "zero"), write_gguf_adapter(network, matrices[1], at / "one.gguf")]
    return {"session": session, "network": network, "matrices": matrices, "files": files}


def step(session: Any, *given: tuple[int, Part]) -> list[Any]:
    batch = make_batch([part for _, part in given])
    result = session.step(replace(batch, adapters=np.array([slot for slot, _ in given], np.int32)))
    return np.split(np.array(result.logits), np.cumsum([len(part.token_ids) for _, part in given])[:-1])


def test_sequences_of_several_adapters_are_those_of_merged_weights(made: dict[str, Any]) -> None:
    """In one step a sequence of each and one of none give what the network with the sums gives, to 1e-4."""
    session = made["session"]
    assert isinstance(session, AdaptingSession)
    for slot, path in enumerate(made["files"]):
        session.add_adapter(slot, session.read_adapter(path))
    parts = [Part(token_ids=IDS, blocks=[2 * n, 2 * n + 1]) for n in range(3)]
    for logits, matrices in zip(
        step(session, *zip((1, -1, 0), parts, strict=True)), (made["matrices"][1], {}, made["matrices"][0]), strict=True
    ):
        expected = merged_logits(made["network"], matrices, IDS)
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    with pytest.raises(ValueError, match="slot 2"):
        step(session, (2, parts[0]))
    session.remove_adapter(0)
    session.remove_adapter(1)


def test_what_the_network_has_not_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    """Shapes of another model, a head, and a file for another architecture are errors with names."""
    session, (name, (down, up)) = made["session"], next(iter(made["matrices"][0].items()))
    with pytest.raises(LoadError, match="for another model"):
        session.read_adapter(write_peft({name: (down[:, 1:].copy(), up)}, tmp_path / "shape"))
    head = {"lm_head.weight": (down, np.ones((320, len(down)), np.float32))}
    with pytest.raises(LoadError, match="linear modules of layers for texts alone"):
        session.read_adapter(write_peft(head, tmp_path / "head", target_modules=["lm_head"]))
    wide = {name: (np.zeros((513, down.shape[1]), np.float32), np.zeros((len(up), 513), np.float32))}
    with pytest.raises(LoadError, match="has rank 513; at most 512 is taken"):
        session.read_adapter(write_peft(wide, tmp_path / "wide", r=513))
    whole = made["files"][1].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadError):
        session.read_adapter(tmp_path / "cut.gguf")


@pytest.mark.parametrize("made_by", ["Granite", "SmolLM3", "Arcee"])
def test_rows_of_a_file_are_in_the_order_of_its_architecture(tmp_path: Path, made_by: str) -> None:
    """Of each architecture whose files pair the rows of queries and keys, an adapter gives what merged weights give."""
    torch.manual_seed(41)
    config = getattr(transformers, f"{made_by}Config")(**COMMON)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    network.eval().save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    matrices = draw(network, 1, parts=("self_attn.q_proj", "self_attn.k_proj"))
    session = load(tmp_path / "model")
    file = write_gguf_adapter(network, matrices, tmp_path / "a.gguf", architecture=made_by.lower())
    session.add_adapter(0, session.read_adapter(file))
    (logits,) = step(session, (0, Part(token_ids=IDS, blocks=[0, 1])))
    expected = merged_logits(network, matrices, IDS)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_a_file_whose_order_of_rows_is_not_known_is_refused(tmp_path: Path) -> None:
    """Of architectures in no table a folder is asked for, before anything of the file is taken."""
    torch.manual_seed(41)
    config = transformers.BloomConfig(vocab_size=COMMON["vocab_size"], hidden_size=64, n_layer=1, n_head=4)
    adapting = Adapting(transformers.BloomForCausalLM(config), torch.device("cpu"))
    with pytest.raises(LoadError, match=r"of 'bloom' order the rows .* take a folder"):
        adapting.read(tmp_path / "a.gguf")


@pytest.mark.parametrize("kind", ["idefics3", "gemma3"])
def test_what_sees_pictures_is_never_changed(tmp_path: Path, kind: str) -> None:
    """An adapter of both towers is refused by the name of the module that sees; of the texts' alone it is read."""
    network = tiny_pictures.write_folder(kind, tmp_path / "model")
    matrices = draw(network, 1, parts=("self_attn.q_proj",))
    texts = {name: both for name, both in matrices.items() if "vision" not in name}
    assert len(texts) < len(matrices)
    session = load(tmp_path / "model")
    with pytest.raises(LoadError, match=r"changes 'model\.vision.*linear modules of layers for texts alone"):
        session.read_adapter(write_peft(matrices, tmp_path / "both", target_modules=["q_proj"]))
    assert session.read_adapter(write_peft(texts, tmp_path / "texts", target_modules=["q_proj"])).rank
