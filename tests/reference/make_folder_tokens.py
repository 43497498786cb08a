"""Asks tiktoken and SentencePiece for the tokens of texts, with small vocabularies: writes folder_tokens.json.

    pip install --target FOLDER tiktoken==0.14.0 sentencepiece==0.2.1
    PYTHONPATH=FOLDER .venv/bin/python tests/reference/make_folder_tokens.py

The file holds a `tekken.json` and models of SentencePiece as folders have them, and of each text the tokens.
"""

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from inferd.engine.text.splitting import TEKKEN

HERE = Path(__file__).parent
CONTROLS = 40
LEARNED = HERE.parents[1] / "README.md"
TEXTS = (
    "The kernel holds models; a lease holds memory.",
    "  Two spaces  in front,   three inside, and one behind ",
    "",
    " ",
    "Numbers: 1,234.56 and 2026-11-28; e-mail a.b@example.org",
    "caf\u00e9 na\u00efve cafe\u0301 \u0130stanbul \ufb01ne \uff21\uff22 \u00bd",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u4f60\u597d\u4e16\u754c \uc548\ub155 \U0001f355\U0001f469\u200d\U0001f680",
    "tabs\tand\nlines\r\n\r\nand \u00a0 hard spaces\u3000wide",
    "kernelKernels KERNELized don't I'LL we've model/models//",
)


def make_tekken() -> dict[str, Any]:
    """Bytes and what is merged of them, as Mistral's files have it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train([str(LEARNED)], trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    back = {_letter(byte): byte for byte in range(256)}
    learned = [bytes(back[x] for x in text) for text, _ in sorted(inner.get_vocab().items(), key=lambda item: item[1])]
    each = [bytes([byte]) for byte in range(256)] + [token for token in learned if len(token) > 1]
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(x).decode(), "token_str": x.decode(errors="replace")}
        for n, x in enumerate(each)
    ]
    size = len(each) + CONTROLS
    settings = {"pattern": TEKKEN.patterns[0], "num_vocab_tokens": len(each), "default_vocab_size": size}
    return {"config": {**settings, "default_num_special_tokens": CONTROLS, "version": "v3"}, "vocab": vocab}


def _letter(byte: int) -> str:
    hidden = [b for b in range(256) if not (0x21 <= b < 0x7F or 0xA1 <= b < 0xAD or b >= 0xAE)]
    return chr(0x100 + hidden.index(byte)) if byte in hidden else chr(byte)


def train_pieces(**options: Any) -> bytes:
    written = io.BytesIO()
    usual = {"model_type": "bpe", "vocab_size": 600, "normalization_rule_name": "identity", "byte_fallback": True}
    usual |= {"remove_extra_whitespaces": False, "minloglevel": 2}
    lines = iter(LEARNED.read_text(encoding="utf-8").splitlines())
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=written, **usual | options)
    return written.getvalue()


def main() -> None:
    tekken = make_tekken()
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in tekken["vocab"]}
    pattern = tekken["config"]["pattern"]
    encoding = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    found: dict[str, Any] = {
        "texts": TEXTS,
        "tekken": {"file": tekken, "ids": [[CONTROLS + n for n in encoding.encode(text)] for text in TEXTS]},
        "pieces": {},
    }
    table = Path(tempfile.mkdtemp()) / "rules.tsv"
    table.write_text("41\t61\n", encoding="utf-8")
    cases: dict[str, dict[str, Any]] = {
        "bpe": {"user_defined_symbols": ["[tool]"]},
        "bpe without a space in front": {"add_dummy_prefix": False, "vocab_size": 400},
        "unigram": {"model_type": "unigram", "vocab_size": 400},
        "table": {"normalization_rule_tsv": str(table), "vocab_size": 400},
        "spaces": {"remove_extra_whitespaces": True, "vocab_size": 400},
    }
    for name, options in cases.items():
        model = train_pieces(**options)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        kept = name.startswith("bpe")
        file = base64.b64encode(model).decode()
        found["pieces"][name] = {"file": file, "ids": [processor.encode(text) for text in TEXTS] if kept else []}
    (HERE / "folder_tokens.json").write_text(json.dumps(found, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
