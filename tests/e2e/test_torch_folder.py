"""A Hugging Face folder through everything: kernel, worker, engine, torch backend and client."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny

from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]


def test_a_folder_is_served(tmp_path: Path) -> None:
    """A folder with a config.json goes to the torch backend, and its greedy answer is that of transformers."""
    import torch  # noqa: PLC0415 - behind the check that it is there

    folder = tmp_path / "tiny-0.1"
    network = tiny.write_network("qwen3", folder)
    network.generation_config.eos_token_id = None
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    given = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)
    expected = given[0, len(prompt) :].tolist()
    with kernel_process(tmp_path / "kernel") as kernel, Client(kernel.address) as client:
        model = client.create_model("tiny", source=str(folder))
        assert (model.backend, model.size_bytes) == ("torch", sum(f.stat().st_size for f in folder.iterdir()))
        answer = client.generate("tiny", prompt, temperature=0.0, max_tokens=12, ignore_eos=True)
        assert list(answer.token_ids) == expected
        assert client.unload_model("tiny").returned_bytes > 1 << 20
