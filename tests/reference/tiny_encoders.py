"""Hugging Face folders of small encoders with random weights, whose tokens are whole words."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_encoder(folder: Path, words: Sequence[str], *, kind: str = "bert", seed: int = 1) -> Path:
    """A folder of a BERT, or of a RoBERTa, of two layers."""
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *words])}
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if kind == "bert":
        transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(folder)
    else:
        transformers.RobertaModel(transformers.RobertaConfig(**sizes)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
