"""Folders of tiny encoders with a classification head, and of their tokenizers, which know pairs."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from encoder_to_gguf import SIZES
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers, processors

WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "who", "what", "when", "rain", "sun", "makes", "wet"]
WORDS += ["the", "grass", "it", "is"]
HEADS: dict[str, dict[str, Any]] = {
    "bert": {"num_labels": 1},
    "roberta": {"num_labels": 1, "pad_token_id": 1, "type_vocab_size": 1},
    "one type": {"num_labels": 1, "pad_token_id": 1, "type_vocab_size": 2},  # a roberta whose pairs are of the first
    "modernbert": {"num_labels": 2, "classifier_pooling": "mean", "classifier_bias": True},
}


def write(kind: str, folder: Path) -> Any:
    """A folder of an encoder with a head; the network."""
    sizes = {**SIZES, "vocab_size": len(WORDS) + 4}
    config = transformers.AutoConfig.for_model(
        "roberta" if kind == "one type" else kind, **(sizes | {"initializer_range": 0.3} | HEADS[kind])
    )
    torch.manual_seed(12)
    made = transformers.AutoModelForSequenceClassification
    network = made.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if weight.dim() == 1 or "norm" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
    network.save_pretrained(folder)
    inner = Inner(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token=WORDS[3]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(WORDS[:3])
    two = "[SEP] [SEP]" if kind == "roberta" else "[SEP]"
    last = "$B [SEP]" if kind == "one type" else "$B:1 [SEP]:1"
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=f"[CLS] $A {two} {last}", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]", "cls_token": "[CLS]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return network
