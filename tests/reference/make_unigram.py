"""Asks SentencePiece for the tokens of texts, with tiny Unigram models that it trains: writes unigram.json.

    pip install --target FOLDER sentencepiece==0.2.0
    PYTHONPATH=FOLDER .venv/bin/python tests/reference/make_unigram.py

The file holds the models as a GGUF file would, and of each text the tokens. Its tables of characters are small; that of
SentencePiece itself, which has most of Unicode, is compared when the script runs.
"""

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from unigram_files import check

HERE = Path(__file__).parent
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  Two spaces  in front,   three inside, and one behind ",
    "",
    " ",
    "Numbers: 1,234.56 and 2026-11-28; e-mail a.b@example.org",
    "caf\u00e9 na\u00efve cafe\u0301 \u0130stanbul \ufb01ne \uff21\uff22\uff23 \u2460 \u00bd",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u4f60\u597d\u4e16\u754c \uc548\ub155 \U0001f355\U0001f469\u200d\U0001f680",
    "tabs\tand\nlines\r\nand \u00a0 hard spaces\u3000wide",
    "kernel kernels kernelized unkernel KERNEL Kernel",
    "zzzzqqqq\u0101\u0102\u0103 unknown letters \u0404\u0405 in a row",
)
RULES = "41\t61\nC4\t61 65\nFB01\t66 69\n9\t20\nA\t20\nD\t20\n3000\t20\nFF21\t61\n65 301\tE9\n"
MODELS: dict[str, dict[str, Any]] = {
    "like T5": {"own_table": True, "vocab_size": 300},
    "bytes": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "byte_fallback": True,
        "vocab_size": 500,
    },
    "across spaces": {"own_table": True, "split_by_whitespace": False, "vocab_size": 300, "byte_fallback": False},
    "nmt_nfkc": {"normalization_rule_name": "nmt_nfkc", "vocab_size": 300},
}


def train(settings: dict[str, Any], folder: Path) -> model_pb2.ModelProto:
    given = dict(settings)
    if given.pop("own_table", False):
        table = folder / "rules.tsv"
        table.write_text(RULES, encoding="utf-8")
        given["normalization_rule_tsv"] = str(table)
    corpus = [(HERE.parents[1] / name).read_text(encoding="utf-8") for name in ("ARCHITECTURE.md", "README.md")]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(corpus).splitlines()),
        model_writer=written,
        model_type="unigram",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **given,
    )
    return model_pb2.ModelProto.FromString(written.getvalue())


def describe(proto: model_pb2.ModelProto) -> dict[str, Any]:
    """The model as a file has it, and its cases."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    normalizer = proto.normalizer_spec
    return {
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [round(piece.score, 6) for piece in proto.pieces],
        "kinds": [piece.type for piece in proto.pieces],
        "table": base64.b64encode(normalizer.precompiled_charsmap).decode(),
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
        "add_space_prefix": normalizer.add_dummy_prefix,
        "cases": [{"text": text, "ids": processor.encode(text)} for text in TEXTS],
    }


def make() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: describe(train(settings, Path(folder))) for name, settings in MODELS.items()}


if __name__ == "__main__":
    made = make()
    for model in made.values():
        check(model)
    del made["nmt_nfkc"]
    lines = [f"{json.dumps(name)}: {json.dumps(model)}" for name, model in made.items()]
    (HERE / "unigram.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
