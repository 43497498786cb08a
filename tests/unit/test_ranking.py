"""Scores of a query and a document: encoders with a classification head, against transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import processors

from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.embedding import PromptPool
from inferd.engine.work import Embedding
from inferd.plugin import LoadedModel, LoadRequest, UnsupportedModelError, read_hf_separator
from inferd.plugin.backend import Pooling, read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from bert_to_gguf import write_bert  # noqa: E402 - it needs both
from tiny_rankers import HEADS, WORDS, write  # noqa: E402 - it needs both

torch.set_num_threads(1)
RANK = 4  # `pooling_type` of a GGUF file
PAIRS = [("who makes the grass wet", "the rain makes it wet"), ("what is sun", "it is"), ("rain", "when who")]


def load(path: Path) -> LoadedModel:
    settings = read_settings(SPEC, {"kv_tokens": "2048", "compute": "exact"})
    request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None)


@pytest.mark.parametrize("kind", [*HEADS, "gguf"])
def test_scores_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """With the tokens of the folder's tokenizer, and the type of the second text where there are types."""
    network = write("bert" if kind == "gguf" else kind, tmp_path)
    if kind == "gguf":
        write_bert(network, [*WORDS, *(f"[unused{n}]" for n in range(4))], tmp_path / "bert.gguf", pooling=RANK)
    model = load(tmp_path / "bert.gguf" if kind == "gguf" else tmp_path)
    assert model.embedding.pooling is Pooling.RANK
    ours = Tokenizer(model.vocabulary, size=len(WORDS) + 4)
    public = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    frame = ours.pair_frame
    assert frame is not None
    for query, document in PAIRS:
        given = public(query, document, return_tensors="pt", return_token_type_ids=True)
        first, second = (ours.encode(text)[1:-1] for text in (query, document))
        ids = [*frame.before, *first, *frame.between, *second, *frame.after]
        assert ids == given["input_ids"][0].tolist()
        types = {"token_type_ids": given["token_type_ids"]} if kind in ("bert", "gguf", "one type") else {}
        with torch.inference_mode():
            expected = network(input_ids=given["input_ids"], **types).logits[0].numpy()
        pool = PromptPool(len(ids), Embedding(), default=Pooling.RANK, head=model.embedding.head, alone=True)
        batch = make_batch([Part(token_ids=ids, blocks=range(2), wanted=[])])
        rows = np.array(pool.wanted(0, len(ids)), np.int32)
        hidden = model.session.step(replace(batch, hidden_rows=rows)).hidden
        assert hidden is not None
        pool.add(hidden)
        np.testing.assert_allclose(pool.vector(), expected, atol=3e-4 * max(1, np.abs(expected).max()))
    model.session.close()


@pytest.mark.parametrize(
    ("pair", "types", "found"),
    [
        ("[CLS] $A [SEP] $B:1 [SEP]:1", 2, 2),
        ("[CLS] $A [SEP] $B [SEP]", 2, -1),
        ("[CLS] $A [SEP] [SEP] $B:1 [SEP]:1", 1, -1),
        ("[CLS] $A [SEP] [SEP] $B:1 [SEP]:1", 2, None),
        ("[CLS] $A [SEP] $B:1 [SEP]", 2, None),
        ("[CLS]:1 $A [SEP] $B:1 [SEP]:1", 2, None),
    ],
)
def test_types_of_pairs_are_those_of_the_tokenizer(tmp_path: Path, pair: str, types: int, found: int | None) -> None:
    """The second text has another type only where the tokenizer gives it one; any other order is refused by name."""
    write("bert", tmp_path)
    inner = Inner.from_file(str(tmp_path / "tokenizer.json"))
    inner.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
            ),
        ]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "type_vocab_size": types}))
    if found is not None:
        assert read_hf_separator(tmp_path) == found
        return
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json: its pairs have the types '\[CLS\]:[01] A:0"):
        read_hf_separator(tmp_path)
