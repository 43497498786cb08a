"""A model with a smaller one beside it that guesses, through everything: kernel, sandbox, worker and client."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny

from inferd.testing.kernel import kernel_process
from inferd_client import Client
from inferd_client.errors import InferdError

pytestmark = [pytest.mark.e2e]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def test_a_model_guesses_for_another_one(tmp_path: Path) -> None:
    """Guesses are told and outputs are those without; where `draft_tokens` says nothing four are guessed at most."""
    network = tiny.write_network("llama", tmp_path / "model")
    network.generation_config.eos_token_id = None
    with kernel_process(tmp_path / "kernel") as kernel, Client(kernel.address) as client:
        folder = str(tmp_path / "model")
        client.create_model("plain", folder, settings={"compute": "exact"})
        for name, more in (("guessed", {}), ("none", {"draft_tokens": 0})):
            client.create_model(name, folder, settings={"compute": "exact", "draft": folder, **more})
        answers = {
            name: client.generate(name, PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True)
            for name in ("plain", "guessed", "none")
        }
        assert len({tuple(each.token_ids) for each in answers.values()}) == 1
        usage = answers["guessed"].usage
        assert usage.drafted_tokens >= usage.accepted_tokens > 12
        assert answers["plain"].usage.drafted_tokens == answers["none"].usage.drafted_tokens == 0
        (tmp_path / "empty").mkdir()
        client.create_model("wrong", folder, settings={"draft": str(tmp_path / "empty")})
        with pytest.raises(InferdError, match="setting 'draft': "):
            client.load_model("wrong")
