"""A Hugging Face folder through everything: kernel, worker, engine, both backends and client."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny

from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]


def test_a_folder_is_served(tmp_path: Path) -> None:
    """A folder goes to the native engine, or by name to torch; either's greedy answer is that of transformers."""
    import torch  # noqa: PLC0415 - behind the check that it is there

    folder = tmp_path / "tiny-0.1"
    network = tiny.write_network("qwen3", folder)
    network.generation_config.eos_token_id = None
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    given = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)
    expected = given[0, len(prompt) :].tolist()
    with kernel_process(tmp_path / "kernel") as kernel, Client(kernel.address) as client:
        size_bytes = sum(f.stat().st_size for f in folder.iterdir())
        native = client.create_model("tiny", source=str(folder), settings={"compute": "exact"})
        named = client.create_model("tiny-torch", source=str(folder), backend="torch")
        assert (native.backend, native.size_bytes) == ("cpu", size_bytes)
        assert (named.backend, named.size_bytes) == ("torch", size_bytes)
        for name in ("tiny", "tiny-torch"):
            answer = client.generate(name, prompt, temperature=0.0, max_tokens=12, ignore_eos=True)
            assert list(answer.token_ids) == expected
        assert client.unload_model("tiny-torch").returned_bytes > 1 << 20
