"""GGUF models that see with their projectors, through a whole kernel: each answer is what transformers says."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
pytest.importorskip("transformers")
pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'inferd[files]'")

from tiny_seeing import COUNT, FIRST, SECOND, Content, files_of

from inferd.testing.kernel import kernel_process
from inferd_client import Client, InferdError

pytestmark = [pytest.mark.e2e]
TALKS: list[Content] = [[FIRST, "what?"], ["see", SECOND, "and", FIRST, "now"]]


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_5_vl"])
def test_a_kernel_serves_a_model_with_its_projector(kind: str, tmp_path: Path) -> None:
    """Tokens are those of transformers in fp32; natively answers are whole; a cut file is refused by name."""
    with files_of(kind, tmp_path / "files") as files, kernel_process(tmp_path / "kernel") as kernel:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(files.projector.read_bytes()[:-5000])
        with Client(kernel.address) as client:
            for name, settings in (("exact", {"compute": "exact"}), ("native", {})):
                seeing = {"projector": str(files.projector), "max_step_tokens": "64", **settings}
                client.create_model(name, source=str(files.decoder), settings=seeing)
            for talk in TALKS:
                parts = [
                    {"type": "text", "text": each} if isinstance(each, str) else {"type": "image", "image": each}
                    for each in talk
                ]
                said = [{"role": "user", "content": parts}]
                sampled = {"max_tokens": COUNT, "temperature": 0.0, "ignore_eos": True}
                assert list(client.generate("exact", said, **sampled).token_ids) == files.answer(talk)
                assert len(client.generate("native", said, **sampled).token_ids) == COUNT
            client.create_model("cut", source=str(files.decoder), settings={"projector": str(cut)})
            with pytest.raises(InferdError, match=r"cut\.gguf"):
                client.generate("cut", "hello", max_tokens=1)
