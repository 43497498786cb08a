"""The backend: what it offers, probing, model folders and files that are not sound, sizes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from inferd.plugin import Backend, LoadedModel, LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU_SPEC
from inferd_torch import capacity, devices
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC, inferd_backends

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: pip install 'inferd[torch]'"
)


def load(path: Path, device: str = "cpu:0", capacity_bytes: int = 4 << 30, **settings: str) -> LoadedModel:
    request = LoadRequest(
        path=path, device=device, settings=read_settings(SPEC, settings), capacity_bytes=capacity_bytes
    )
    return TorchBackend().load(request, lambda _: None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_networks as tiny  # noqa: PLC0415 - imports torch

    folder = tmp_path_factory.mktemp("sound")
    tiny.write_network("llama", folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_offers_one_inert_backend() -> None:
    """The plugin offers one backend for folders and GGUF files, behind cpu in rank; probing it imports no framework."""
    assert list(inferd_backends()) == [SPEC]
    assert (SPEC.name, SPEC.formats, SPEC.extra) == ("torch", ("hf", "gguf", "classifier"), "torch")
    assert SPEC.rank > 100
    code = (
        "import sys, inferd_torch.backend as b; b.TorchBackend().probe()\n"
        "print(*sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    if find_spec("torch") is None or any(sign.exists() for sign in devices.NVIDIA_DRIVERS):
        code = code.replace("b.TorchBackend().probe()", "b")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_a_missing_framework_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the probe says which module is missing, as the kernel's advice needs it."""
    monkeypatch.setattr(devices, "find_spec", lambda name: None if name == "torch" else True)
    with pytest.raises(ModuleNotFoundError) as caught:
        TorchBackend().probe()
    assert caught.value.name == "torch"


@needs_torch
def test_probe() -> None:
    """The processor is always among the devices, with memory and cores."""
    assert isinstance(TorchBackend(), Backend)
    processor = TorchBackend().probe().devices[-1]
    assert processor.device_id == "cpu:0"
    assert processor.memory_bytes > 1 << 30
    assert processor.cores > 0


@needs_torch
def test_a_device_that_is_not_there_is_an_error(sound: Path) -> None:
    """Another device is never taken in its place."""
    with pytest.raises(LoadError, match=r"'cuda:7' is not known; this backend has .*cpu:0"):
        load(sound, device="cuda:7")


@needs_torch
def test_the_vocabulary_of_a_folder(folder: Path) -> None:
    """Ends come from three files, the first token from the tokenizer's settings, the template from its own file."""
    change(folder / "config.json", eos_token_id=12)
    change(folder / "generation_config.json", eos_token_id=[9, 7])
    vocabulary = load(folder).vocabulary
    assert (vocabulary.algorithm, vocabulary.definition) == ("json", (folder / "tokenizer.json").read_bytes())
    assert (vocabulary.eos_ids, vocabulary.bos_id) == ((9, 7, 12, 256), 257)
    assert vocabulary.chat_template == "{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text("from its file")
    assert load(folder).vocabulary.chat_template == "from its file"
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    change(folder / "tokenizer_config.json", chat_template=named)
    vocabulary = load(folder).vocabulary
    assert (vocabulary.chat_template, vocabulary.tool_use_template) == ("d", "t")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("from a file")
    assert load(folder).vocabulary.tool_use_template == "from a file"


@needs_torch
def test_how_a_folder_advises_to_sample(folder: Path) -> None:
    """What generation_config.json says of sampling comes with the model, and a wrong value names its field."""
    assert load(folder).sampling.numbers == {}
    change(folder / "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9, max_new_tokens=5)
    assert load(folder).sampling.numbers == {"temperature": 0.6, "top_p": 0.9, "top_k": 50}
    change(folder / "generation_config.json", top_p=1.5)
    with pytest.raises(LoadError, match=r"generation_config\.json: 'top_p' is 1\.5; it must be above 0 and at most 1"):
        load(folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def escaping(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (pickled, r"has pytorch_model.bin, which is never loaded.*safetensors"),
    "cut": (cut, r"model.safetensors: .*fetch it again"),
    "outside": (escaping, r"names '../model.safetensors', which is no safetensors file of the folder"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"it has no tokenizer\.json, and no tekken"),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"config.json cannot be read"),
    "no json": (lambda f: f.joinpath("config.json").write_text("{"), r"config.json: it is no JSON"),
    "no object": (lambda f: f.joinpath("config.json").write_text("[]"), r"holds a list; it must hold an object"),
    "bad tokenizer": (lambda f: f.joinpath("tokenizer.json").write_text("[1]"), r"it is no tokenizer definition"),
    "unknown": (lambda f: change(f / "config.json", model_type="marvin"), r"marvin"),
    "own code": (
        lambda f: change(f / "config.json", model_type="x", auto_map={"AutoConfig": "evil.Config"}),
        r"transformers: ",
    ),
    "quantised": (
        lambda f: change(f / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"quantization_config 'bitsandbytes' is not supported",
    ),
    "encoder": (lambda f: change(f / "config.json", model_type="t5"), r"'t5' is no decoder of text"),
    "more layers": (lambda f: change(f / "config.json", num_hidden_layers=4), r"9 missing keys, for example"),
    "wider": (lambda f: change(f / "config.json", intermediate_size=200), r"transformers|mismatched"),
    "wild": (lambda f: change(f / "config.json", max_position_embeddings=-3), r"max_position_embeddings is -3"),
}


@needs_torch
@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_a_folder_that_is_not_sound_is_a_load_error(folder: Path, name: str) -> None:
    """What is missing, damaged, unknown or would be executed is named, with the file."""
    damage, words = DAMAGE[name]
    damage(folder)
    with pytest.raises(LoadError, match=words):
        load(folder)


def write_gguf(name: str, folder: Path) -> Path:
    return tiny_models.write_model(tiny_models.MODELS[name], folder / f"{name}.gguf")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_tokenizer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"gpt2", b"bert"))


@needs_torch
@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("llama", lambda path: path.write_bytes(b""), "is not a sound GGUF file"),
        ("llama", lambda path: path.unlink(), "is not a sound GGUF file: FileNotFoundError"),
        ("llama", halve, "is not a sound GGUF file"),
        ("llama", replace_tokenizer, "tokenizer.ggml.model is 'bert', which is not supported"),
        ("llama3", lambda _: None, r"scales the rotation of positions \(rope_freqs.weight\).*backend 'cpu'"),
        ("llama_linear", lambda _: None, r"scales the rotation of positions \(rope.scaling.type 'linear'\)"),
    ],
)
def test_a_gguf_file_that_cannot_be_served(
    tmp_path: Path, name: str, damage: Callable[[Path], None], words: str
) -> None:
    """A damaged file, and one with what transformers would leave out in silence, is a LoadError with the cause."""
    path = write_gguf(name, tmp_path)
    damage(path)
    with pytest.raises(LoadError, match=words):
        load(path)


@needs_torch
def test_the_names_of_tensors_are_not_made_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF file costs the names of all tensors a time or two, not again for each part of its network."""
    import gguf  # noqa: PLC0415 - as torch

    made, make = [], gguf.get_tensor_name_map

    def count(*what: Any) -> Any:
        made.append(what)
        return make(*what)

    monkeypatch.setattr(gguf, "get_tensor_name_map", count)
    load(write_gguf("llama", tmp_path)).session.close()
    assert len(made) <= 2
    assert gguf.get_tensor_name_map is count


@needs_torch
def test_a_gguf_file_gives_what_the_cpu_backend_gives(tmp_path: Path) -> None:
    """Vocabulary and logits of a GGUF file are those of the reference backend."""
    path = write_gguf("llama", tmp_path)
    model = load(path)
    reference = CpuBackend().load(
        LoadRequest(path=path, device="cpu:0", settings=read_settings(CPU_SPEC, {}), capacity_bytes=1 << 30),
        lambda _: None,
    )
    for name in ("algorithm", "tokens", "merges", "eos_ids", "bos_id", "add_bos", "pre_tokenizer", "chat_template"):
        assert getattr(model.vocabulary, name) == getattr(reference.vocabulary, name), name
    part = Part(token_ids=tiny_models.PROMPT, blocks=range(3))
    logits = [compute(session, part)[0] for session in (model.session, reference.session)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-3)


@needs_torch
def test_positions_that_begin_elsewhere_are_refused(tmp_path: Path) -> None:
    """A network whose positions begin behind its padding token is refused, not given positions from 0."""
    import tiny_networks as tiny  # noqa: PLC0415 - imports torch

    tiny.write_network("roberta", tmp_path)
    with pytest.raises(LoadError, match="positions of roberta begin behind the number of its padding token"):
        load(tmp_path)


@needs_torch
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", "1 weights are scales or zero points .*no quantization_c"),
        ("model.layers.0.mlp.up_proj.qzeros", "1 weights are scales or zero points"),
        ("model.layers.0.mlp.extra.weight", "1 unexpected keys, for example model.layers.0.mlp.extra.weight"),
    ],
)
def test_weights_that_nothing_uses_are_refused(folder: Path, name: str, words: str) -> None:
    """A folder with a weight that its network has no place for is refused by its name."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - imports torch

    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {name: weights["model.norm.weight"].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=words):
        load(folder)


@needs_torch
@pytest.mark.parametrize(
    ("setting", "own", "stored", "device", "expected"),
    [
        ("auto", "float16", "F32", "cuda:0", "float16"),
        ("auto", None, "F16", "cuda:0", "float16"),
        ("auto", None, "F32", "cuda:0", "float32"),
        ("auto", None, "F8_E4M3", "cuda:0", "bfloat16"),
        ("auto", None, "gguf", "cuda:0", "bfloat16"),
        ("auto", "float32", "gguf", "cuda:0", "bfloat16"),
        ("float32", "float16", "gguf", "cuda:0", "float32"),
        ("auto", "bfloat16", "BF16", "cpu", "float32"),
    ],
)
def test_numbers_to_compute_with(setting: str, own: str | None, stored: str, device: str, expected: str) -> None:
    """On CUDA the model's own, as it says or is stored; a GGUF file's are bfloat16, which says nothing of its own."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import LlamaConfig  # noqa: PLC0415 - as above

    from inferd.plugin import SamplingDefaults, Vocabulary  # noqa: PLC0415 - as above
    from inferd_torch.artifact import Artifact  # noqa: PLC0415 - as above
    from inferd_torch.network import choose_dtype  # noqa: PLC0415 - as above

    artifact = Artifact(
        path=Path("some"),
        folder=Path("some"),
        options={"gguf_file": "some"} if stored == "gguf" else {},
        parameters=1,
        weight_format="Q4_K" if stored == "gguf" else stored,
        vocabulary=Vocabulary(algorithm="bpe"),
        sampling=SamplingDefaults(),
    )
    config = LlamaConfig(dtype=own and getattr(torch, own))
    assert choose_dtype(artifact, config, setting, torch.device(device)) == getattr(torch, expected)


@needs_torch
def test_folders_need_no_reader_of_gguf_files(sound: Path) -> None:
    """Where gguf is not installed, folders load, and a GGUF file is refused with what to install."""
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from pathlib import Path\n"
        "from inferd.plugin import LoadError, LoadRequest\n"
        "from inferd.plugin.backend import read_settings\n"
        "from inferd_torch.backend import TorchBackend\n"
        "from inferd_torch.plugin import SPEC\n"
        f"for path in ({str(sound)!r}, 'some.gguf'):\n"
        "    wanted = dict(path=Path(path), device='cpu:0', settings=read_settings(SPEC, {}), capacity_bytes=1 << 32)\n"
        "    try: print(TorchBackend().measure(LoadRequest(**wanted)).weights_bytes)\n"
        "    except LoadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout.splitlines() == [
        "534272",
        "some.gguf: gguf, which reads GGUF files, is not installed: pip install 'inferd[torch]'",
    ], done.stderr


@needs_torch
def test_a_rotation_that_depends_on_length_bounds_the_context(folder: Path) -> None:
    """Where a longer neighbour would change a sequence's rotation, the context ends before that can happen."""
    scaling = {
        "rope_type": "dynamic",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 100,
    }
    change(folder / "config.json", rope_parameters=scaling)
    assert load(folder).session.limits.context_tokens == 100


@needs_torch
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context_tokens": "513"}, "'context_tokens' is 513, but the model serves 512"),
        ({"context_tokens": "64", "kv_tokens": "32"}, "'context_tokens' is 64, but the KV pool has room for 32"),
        (
            {"kv_tokens": str(1 << 40)},
            r"needs \d+ bytes of memory .*KV pool .* but 4294967296 may be given: .*'kv_tokens' \(now 1099511627776\)",
        ),
    ],
)
def test_sizes_that_do_not_fit(sound: Path, settings: dict[str, str], words: str) -> None:
    """A setting beyond the model, another setting or the memory is refused with both numbers."""
    with pytest.raises(LoadError, match=words):
        load(sound, **settings)


@needs_torch
def test_weights_that_do_not_fit(sound: Path) -> None:
    """Weights larger than what may be given are measured, and refused before they are read."""
    request = LoadRequest(path=sound, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=1000)
    assert TorchBackend().measure(request).weights_bytes == 534272
    with pytest.raises(LoadError, match=r"weights 534272, .* but 1000 may be given: give more, take a smaller model"):
        load(sound, capacity_bytes=1000)


@needs_torch
def test_a_device_with_too_little_memory_says_so(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs out while a model loads is a LoadError with what was counted and the settings that lower it."""
    import torch  # noqa: PLC0415 - takes seconds

    from inferd_torch import loading  # noqa: PLC0415 - as above

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation")

    monkeypatch.setattr(loading, "open_session", fail)
    with pytest.raises(LoadError, match=r"of the \d+ bytes .*Tried to allocate 2 GiB\.\): lower .*'kv_tokens'"):
        load(sound)


@needs_torch
def test_measures_what_load_takes(sound: Path) -> None:
    """What is measured without weights are the bytes of the weights and of the pool that the session then holds."""
    settings = read_settings(SPEC, {"dtype": "bfloat16", "kv_tokens": "100"})
    request = LoadRequest(path=sound, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    backend = TorchBackend()
    need = backend.measure(request)
    session: Any = backend.load(request, lambda _: None).session
    assert sum(tensor.nbytes for pair in session._pool.layers for tensor in pair) == need.kv_bytes
    assert sum(weight.nbytes for weight in session._network.parameters()) == need.weights_bytes
    assert need.workspace_bytes > 1 << 20


@needs_torch
def test_measures_what_depends_on_numbers(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that shapes alone do not carry through is measured on the processor; what a step takes is estimated."""
    from transformers.models.llama.modeling_llama import LlamaMLP  # noqa: PLC0415 - takes seconds

    request = LoadRequest(path=sound, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=1 << 30)
    expected = TorchBackend().measure(request)
    forward = LlamaMLP.forward
    asked: list[int] = []
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: asked.append(len(x.nonzero())) or forward(self, x))
    found = TorchBackend().measure(request)
    assert replace(found, workspace_bytes=expected.workspace_bytes) == expected
    assert found.workspace_bytes >= expected.workspace_bytes
    assert asked


@pytest.mark.parametrize(
    ("room", "capacity_bytes", "tokens"),
    [
        (capacity.PROCESSOR, 8 << 30, 64 * 512),
        (capacity.PROCESSOR, (1 << 30) + capacity.PROCESSOR.library_bytes, (1 << 28) // 16384),
        (capacity.CUDA, 80 << 30, 64 * 2048),
        (capacity.CUDA, (1 << 30) + capacity.CUDA.library_bytes, int(0.8 * (1 << 30)) // 16384),
    ],
)
def test_default_pool(room: capacity.Room, capacity_bytes: int, tokens: int) -> None:
    """The pool has room for each sequence, but takes only its share of what weights and libraries leave."""
    sizes = capacity.Sizes(
        context_tokens=8192,
        weights_bytes=0,
        kv_token_bytes=16384,
        layer_token_bytes=1024,
        number_bytes=2,
        vocabulary_size=1000,
        width=64,
    )
    settings = read_settings(SPEC, {})
    limits = capacity.derive_limits(Path("model"), settings, sizes, room=room, capacity_bytes=capacity_bytes)
    assert limits.blocks == -(-tokens // 16)
    assert capacity.derive_need(sizes, limits, room=room).kv_bytes == (limits.blocks + 1) * 16 * 16384


@needs_torch
def test_settings_become_limits(sound: Path) -> None:
    """Set sizes are taken as they are, and the numbers of the dtype are what the model computes with."""
    model = load(sound, context_tokens="100", kv_tokens="250", block_tokens="4", dtype="bfloat16", max_sequences="3")
    limits = model.session.limits
    assert (limits.context_tokens, limits.block_tokens, limits.blocks, limits.max_sequences) == (100, 4, 63, 3)
    assert (limits.vocabulary_size, limits.embedding_size) == (320, 64)
    assert model.description.compute_format == "BFLOAT16"
