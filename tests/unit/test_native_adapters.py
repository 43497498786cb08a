"""Adapters in the steps of the native engine: against merged weights, beside each other, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.plugin.session import AdaptingSession
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not LIBRARY.exists():
    pytest.skip("the native library is not built", allow_module_level=True)
from greedy_ids import PROMPTS  # noqa: E402 - what is imported below needs both
from network_to_gguf import write_network  # noqa: E402
from tiny_adapters import PARTS, RANK, draw, merged_logits, write_gguf_adapter, write_peft  # noqa: E402
from tiny_networks import write_tokenizer  # noqa: E402

torch.set_num_threads(1)
IDS = PROMPTS.reshape(-1)[:50].tolist()
BOUND = 0.08
"""Of the logits, as root mean squares: what 8 bits lose of these coarse networks; sums as such weights lose more."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network as a file and as a folder, and matrices of adapters."""
    at = tmp_path_factory.mktemp("adapted")
    network = write_network("llama", at / "model.gguf", spread=0.1)
    network.save_pretrained(at / "model")
    write_tokenizer(at / "model")
    matrices = [draw(network, seed) for seed in range(3)]
    return {"at": at, "network": network, "gguf": at / "model.gguf", "folder": at / "model", "matrices": matrices}


def load(path: Path, **settings: str) -> Any:
    given = read_settings(SPEC, {"kv_tokens": "2048", "compute": "native", "threads": "2", **settings})
    request = LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None).session


def step(session: Any, *given: tuple[int, Part]) -> list[Any]:
    """The logits of parts, each with the adapter in a slot, -1 for none."""
    batch = make_batch([part for _, part in given])
    slots = np.array([slot for slot, _ in given], np.int32)
    result = session.step(replace(batch, adapters=slots if slots.max() >= 0 else None))
    counts = np.cumsum([len(part.token_ids) for _, part in given])[:-1]
    return np.split(np.array(result.logits), counts)


def size(numbers: Any) -> float:
    return float(np.sqrt(np.mean(np.square(numbers))))


@pytest.mark.parametrize("kind", ["peft", "gguf"])
@pytest.mark.parametrize("base", ["gguf", "folder"])
def test_logits_are_those_of_merged_weights(made: dict[str, Any], base: str, kind: str) -> None:
    """A file or a folder with an adapter that is either, on every projection: as with the sum, within the bound."""
    matrices, at = made["matrices"][0], made["at"]
    if kind == "peft":
        adapter = write_peft(matrices, at / "peft")
    else:
        adapter = write_gguf_adapter(made["network"], matrices, at / "adapter.gguf")
    session = load(made[base])
    assert isinstance(session, AdaptingSession)
    read = session.read_adapter(adapter)
    assert (read.rank, read.targets) == (RANK, tuple(sorted(PARTS.values())))
    part = Part(token_ids=IDS, blocks=range(4))
    (before,) = step(session, (-1, part))
    session.add_adapter(0, read)
    (logits,) = step(session, (0, part))
    expected = merged_logits(made["network"], matrices, IDS)
    assert size(logits - expected) < BOUND * size(expected)
    assert size(before - expected) > size(expected)
    session.remove_adapter(0)
    np.testing.assert_array_equal(step(session, (-1, part))[0], before)
    session.close()


@pytest.mark.parametrize("isa", ["auto", "plain"])
def test_each_row_is_as_if_it_were_alone(made: dict[str, Any], isa: str) -> None:
    """Prompts and tokens with three adapters and with none, in one step: each has the bits that it has alone."""
    session = load(made["gguf"], isa=isa)
    for slot, matrices in enumerate(made["matrices"]):
        session.add_adapter(slot, session.read_adapter(write_peft(matrices, made["at"] / f"a{slot}")))
    parts = [Part(token_ids=IDS[: 9 + slot], blocks=[2 * slot, 2 * slot + 1]) for slot in range(4)]
    slots = (2, -1, 0, 1)
    together = step(session, *zip(slots, parts, strict=True))
    singles = [Part(token_ids=[5], begin=len(p.token_ids), blocks=p.blocks) for p in parts]
    next_together = step(session, *zip(slots, singles, strict=True))
    for slot, part, single, logits, following in zip(slots, parts, singles, together, next_together, strict=True):
        np.testing.assert_array_equal(step(session, (slot, part))[0], logits)
        np.testing.assert_array_equal(step(session, (slot, single))[0], following)
    with pytest.raises(ValueError, match="bad batch"):
        step(session, (3, parts[0]))
    session.close()


def test_patterns_and_rslora_scale_each_matrix(made: dict[str, Any], tmp_path: Path) -> None:
    """`alpha_pattern` goes before `lora_alpha`, and `use_rslora` divides by the root of the rank."""
    session, part, root = load(made["gguf"]), Part(token_ids=IDS, blocks=range(4)), RANK**0.5
    matrices = draw(made["network"], 7, parts=("self_attn.q_proj", "mlp.down_proj"))
    double = {n: (down, up * 2 if "down_proj" in n else up) for n, (down, up) in matrices.items()}
    found = []
    for name, changed, settings in (
        ("plain", double, {}),
        ("pattern", matrices, {"alpha_pattern": {"down_proj": 12.0}}),
        ("rslora", matrices, {"use_rslora": True, "lora_alpha": 6 / root, "alpha_pattern": {"down_proj": 12 / root}}),
    ):
        session.add_adapter(0, session.read_adapter(write_peft(changed, tmp_path / name, **settings)))
        found.append(step(session, (0, part))[0])
        session.remove_adapter(0)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-3 * np.abs(found[0]).max())
    session.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "'use_dora' is True"),
        ({"bias": "all"}, "'bias' is all"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out'"),
        ({"r": 4}, "but r is 4"),
        ({"rank_pattern": {"q_proj|k_proj": 2}}, "only names of modules"),
    ],
)
def test_what_is_not_added_is_refused_in_words(made: dict[str, Any], tmp_path: Path, settings: Any, said: str) -> None:
    """What a folder asks for besides matrices is named with its value."""
    session = load(made["gguf"])
    with pytest.raises(LoadError, match=said):
        session.read_adapter(write_peft(made["matrices"][0], tmp_path / "a", **settings))
    session.close()


def test_another_model_and_parts_that_cannot_be_added_are_named(made: dict[str, Any], tmp_path: Path) -> None:
    """Shapes of another model are told beside its own; a head is changed in the weights alone, and that is said."""
    session, matrices = load(made["gguf"]), dict(made["matrices"][0])
    name = next(iter(matrices))
    down, up = matrices[name]
    wrong = {name: (down[:, :-1].copy(), up)}
    shapes = ".*".join(re.escape(str([*each.shape])) for each in (up, down[:, :-1]))
    with pytest.raises(LoadError, match=f"{shapes}.*another model"):
        session.read_adapter(write_peft(wrong, tmp_path / "wrong"))
    head = {"lm_head.weight": (np.ones((RANK, down.shape[1]), np.float32), np.ones((1, RANK), np.float32))}
    with pytest.raises(LoadError, match="target_modules"):
        session.read_adapter(write_peft(head, tmp_path / "head"))
    session.close()


def test_files_that_are_cut_short_or_no_numbers_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    """Of an adapter that ends anywhere, or has a number that is none, nothing is loaded, with a LoadError."""
    session, matrices = load(made["gguf"]), made["matrices"][1]
    folder = write_peft(matrices, tmp_path / "p")
    file = write_gguf_adapter(made["network"], matrices, tmp_path / "g.gguf")
    weights = folder / "adapter_model.safetensors"
    for path, read in ((weights, folder), (file, file)):
        whole = path.read_bytes()
        for size in (0, 3, 8, 40, len(whole) // 3, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(LoadError):
                session.read_adapter(read)
        path.write_bytes(whole)
    down, up = matrices[next(iter(matrices))]
    bad = dict(matrices) | {next(iter(matrices)): (down * np.float32("nan"), up)}
    with pytest.raises(LoadError, match="not finite"):
        session.read_adapter(write_peft(bad, tmp_path / "nan"))
    session.close()
