"""Make `sampling.json`: what the logits processors of Hugging Face transformers say of small random logits.

    hf/bin/python tests/reference/make_sampling.py

In an environment as `make_reference.py` describes. For each case the file holds logits, the tokens of prompt and
output, the parameters, and under "expected"

    ruled          the logits behind bias, penalty and what is forbidden; null for minus infinity
    kept           the tokens that temperature, top-k, top-p and min-p leave of them, and
    probabilities  what these then have
    logprobs       log softmax of the logits as they were, and
    top            the 20 likeliest tokens

transformers has no frequency and presence penalty: the test compares these with their definition.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as lp

HERE = Path(__file__).parent
SEED, ROWS, SIZE = 7, 12, 40


def logits() -> np.ndarray:
    """The logits that both sides work on."""
    return (np.random.default_rng(SEED).normal(size=(ROWS, SIZE)) * 3).round(4).astype(np.float32)


def cases() -> list[dict[str, Any]]:
    """One case a row: history and parameters."""
    rng = np.random.default_rng(SEED + 1)
    made = []
    for row in range(ROWS):
        prompt = rng.integers(0, SIZE, int(rng.integers(1, 12))).tolist()
        output = rng.integers(0, SIZE, int(rng.integers(0, 12))).tolist()
        phrases = [[int(rng.integers(SIZE))], [output[-1] if output else prompt[-1], 5], [38, 39, 3]]
        made.append(
            {
                "prompt": prompt,
                "output": output,
                "repetition_penalty": [1.0, 1.3, 0.7, 5.0][row % 4],
                "logit_bias": {str(int(i)): round(float(rng.normal() * 4), 3) for i in rng.integers(0, SIZE, row % 3)},
                "bad_words": phrases if row % 2 else [],
                "min_tokens": 6 if row % 3 == 0 else 0,
                "ends": [0, 17],
                "temperature": [1.0, 0.5, 2.0][row % 3],
                "top_k": [0, 5, 0, 30][row % 4],
                "top_p": [1.0, 0.9, 0.6][row % 3],
                "min_p": [0.0, 0.0, 0.05, 0.3][row % 4],
            }
        )
    return made


def process(row: np.ndarray, case: dict[str, Any]) -> dict[str, Any]:
    """The logits of one row behind the rules, behind the filters, and the log softmax of the raw ones."""
    ids = torch.tensor([case["prompt"] + case["output"]])
    scores = torch.tensor(row)[None]
    rules: list[Any] = []
    if case["logit_bias"]:
        rules.append(lp.SequenceBiasLogitsProcessor({(int(i),): b for i, b in case["logit_bias"].items()}))
    rules.append(lp.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    if case["bad_words"]:
        rules.append(lp.NoBadWordsLogitsProcessor(case["bad_words"]))
    if case["min_tokens"]:
        rules.append(
            lp.MinNewTokensLengthLogitsProcessor(len(case["prompt"]), case["min_tokens"], case["ends"], device="cpu")
        )
    ruled = lp.LogitsProcessorList(rules)(ids, scores.clone())
    filters: list[Any] = [lp.TemperatureLogitsWarper(case["temperature"])]
    if case["top_k"]:
        filters.append(lp.TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1:
        filters.append(lp.TopPLogitsWarper(case["top_p"]))
    if case["min_p"]:
        filters.append(lp.MinPLogitsWarper(case["min_p"]))
    filtered = lp.LogitsProcessorList(filters)(ids, ruled.clone())
    logprobs = torch.log_softmax(scores, dim=-1)
    return {
        "ruled": _numbers(ruled),
        "kept": torch.isfinite(filtered[0]).nonzero()[:, 0].tolist(),
        "probabilities": _numbers(torch.softmax(filtered, dim=-1)),
        "logprobs": _numbers(logprobs),
        "top": logprobs.topk(20).indices[0].tolist(),
    }


def _numbers(scores: torch.Tensor) -> list[float | None]:
    return [float(f"{x:.7g}") if np.isfinite(x) else None for x in scores[0].tolist()]


def main() -> None:
    """Run every case and write the file."""
    rows = [
        case | {"logits": _numbers(torch.tensor(row)[None]), "expected": process(row, case)}
        for row, case in zip(logits(), cases(), strict=True)
    ]
    about = f"transformers {transformers.__version__}, torch {torch.__version__}; made by make_sampling.py"
    head = json.dumps({"about": about})[:-1]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (HERE / "sampling.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
