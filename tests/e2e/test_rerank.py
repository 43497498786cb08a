"""A reranker through everything: kernel, worker, engine, the native backend and client."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

from tiny_rankers import write

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]
DOCUMENTS = ("the rain makes it wet", "it is", "the grass", "when sun")


def test_documents_come_in_the_order_of_their_scores(tmp_path: Path) -> None:
    """Best first, with the scores of transformers; an encoder without a head is refused by the field."""
    import torch  # noqa: PLC0415 - behind the check that it is there
    import transformers  # noqa: PLC0415 - as above

    network = write("bert", tmp_path / "bert")
    public = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "bert" / "tokenizer.json"))
    expected = []
    for document in DOCUMENTS:
        given = public("who makes wet", document, return_tensors="pt", return_token_type_ids=True)
        with torch.inference_mode():
            expected.append(float(network(given["input_ids"], token_type_ids=given["token_type_ids"]).logits))
    order = sorted(range(len(DOCUMENTS)), key=lambda index: -expected[index])
    with (
        kernel_process(tmp_path / "kernel", environment={"INFERD_BACKENDS": "cpu"}) as kernel,
        Client(kernel.address) as client,
    ):
        client.create_model("ranker", source=str(tmp_path / "bert"), settings={"compute": "exact"})
        ranked = client.rerank("ranker", "who makes wet", DOCUMENTS)
        assert [each.index for each in ranked] == order
        assert [each.score for each in ranked] == pytest.approx([expected[index] for index in order], abs=1e-3)
        words = ["rerank", "ranker", "who makes wet", *DOCUMENTS, "--address", kernel.address]
        told = json.loads(CliRunner().invoke(app, [*words, "-o", "json"]).stdout)["ranking"]
        assert [(each["index"], each["score"]) for each in told] == [(each.index, each.score) for each in ranked]
        assert DOCUMENTS[order[0]] in CliRunner().invoke(app, words).stdout.splitlines()[1]
        refused = CliRunner().invoke(app, ["run", "ranker", "hi", "--address", kernel.address])
        assert (refused.exit_code, "`inferd embed`" in refused.stderr) == (1, True)
        empty = CliRunner().invoke(app, ["embed", "ranker", "--address", kernel.address], input="\n")
        assert (empty.exit_code, "there is no text" in empty.stderr) == (2, True)
        with pytest.raises(TypeError, match="documents"):
            client.rerank("ranker", "who", [[1, 2]])  # type: ignore[list-item]
