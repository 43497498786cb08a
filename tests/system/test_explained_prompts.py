"""Explanations held against captum's, and against chance with a real model: minutes of processor time.

`python tests/system/test_explained_prompts.py [COUNT]` is the long form: so many prompts of real text, 200 by default.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.testing.kernel import kernel_here
from inferd_client import AsyncClient

ROOT = Path(__file__).parents[2]
WORDS, ANSWER_WORDS = 8, 2
SHORT = 20  # prompts of the short form
FLIPS = 100_000
TEXT = "a big red fox ran over the hill and"
ANSWER = " slept"
AGAINST = " woke"
PAD = "<end>"
SPANS = ["big", "red", "fox", "over", "hill"]


def prompts(count: int) -> Iterator[tuple[str, str]]:
    """Beginnings of real sentences and how they go on, from the documents of this repository."""
    found = 0
    for path in sorted((ROOT / "docs").glob("*.md")):
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(path.read_text(encoding="utf-8").split())):
            words = sentence.split()
            if found < count and len(words) >= WORDS + ANSWER_WORDS and all(map(str.isalpha, words[:WORDS])):
                found += 1
                yield " ".join(words[:WORDS]), " " + " ".join(words[WORDS : WORDS + ANSWER_WORDS])


def flip_test(differences: Sequence[float]) -> float:
    """How likely their sum were as high if each had either sign by chance: a permutation test of 100,000 draws."""
    signs = np.random.default_rng(1).choice((-1.0, 1.0), size=(FLIPS, len(differences)))
    return float((1 + (signs @ np.array(differences) >= sum(differences)).sum()) / (1 + FLIPS))


@asynccontextmanager
async def asking(source: Path, **model: Any) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with one model, "m"."""
    with tempfile.TemporaryDirectory(prefix="ex") as folder:
        async with kernel_here(Path(folder)) as kernel, AsyncClient(kernel.addresses[0]) as client:
            await client.create_model("m", str(source), **model)
            yield client


async def judge(client: AsyncClient, count: int) -> tuple[list[float], list[float], list[float]]:
    """By how much deletion and insertion are better than by a random order, and cost by what was stated; by prompt."""
    deletion, insertion, costs = [], [], []
    for number, (prompt, answer) in enumerate(prompts(count)):
        found = await client.explain("m", prompt, answer=answer, random_orders=1, seed=number, alternatives=0)
        judged = found.faithfulness
        deletion.append(judged.random[0].deletion_area - judged.ranked.deletion_area)
        insertion.append(judged.ranked.insertion_area - judged.random[0].insertion_area)
        costs.append(found.cost.computed_tokens / found.planned.computed_tokens)
    return deletion, insertion, costs


@pytest.mark.model
@pytest.mark.asyncio
async def test_scores_are_better_than_chance(smollm2: Path) -> None:
    """With SmolLM2, the answer is less likely without what scores highest; the cost is what was stated."""
    async with asking(smollm2) as client:
        deletion, _, costs = await judge(client, SHORT)
    assert len(deletion) == SHORT
    assert flip_test(deletion) < 0.01
    assert max(costs) <= 1.1
    assert 0.9 <= sum(costs) / len(costs) <= 1.1


@pytest.mark.asyncio
async def test_leave_one_out_is_captums(tmp_path: Path) -> None:
    """By a small random Llama, scores are captum's within 1e-3, for an answer and for one against another."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
    pytest.importorskip("captum", reason="captum is not installed: pip install captum, or make test-system")
    import tiny_networks  # noqa: PLC0415 - needs torch

    network = tiny_networks.write_network("llama", tmp_path / "llama")
    spans = [(at, at + len(word)) for word in SPANS for at in (TEXT.index(word),)]
    asked: dict[str, Any] = {"spans": spans, "random_orders": 0}
    async with asking(tmp_path / "llama", backend="cpu", settings={"compute": "exact"}) as client:
        one = await client.explain("m", TEXT, answer=ANSWER, **asked)
        both = await client.explain("m", TEXT, answer=ANSWER, against=AGAINST, **asked)
    expected, other = (by_captum(network, tmp_path / "llama", answer) for answer in (ANSWER, AGAINST))
    assert [each.scores[0].score for each in one.spans] == pytest.approx(expected, abs=1e-3)
    difference = [mine - theirs for mine, theirs in zip(expected, other, strict=True)]
    assert [each.scores[0].score for each in both.spans] == pytest.approx(difference, abs=1e-3)
    assert max(map(abs, expected)) > 0.01


def by_captum(network: Any, folder: Path, answer: str) -> list[float]:
    """Captum's scores of the same spans for an answer, each taken out as a text."""
    from captum.attr import FeatureAblation, LLMAttribution, TextTemplateInput  # noqa: PLC0415 - as above
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token=PAD)
    template, values = TEXT, SPANS
    for word in values:
        template = template.replace(word, "{}", 1)
    given = TextTemplateInput(template=template, values=list(values), baselines=[""] * len(values))
    made = LLMAttribution(FeatureAblation(network), tokenizer, attr_target="log_prob")
    told = made.attribute(given, target=answer, use_cached_outputs=False)  # its cache and transformers 5 do not agree
    found: list[float] = told.seq_attr.tolist()
    return found


async def main(count: int) -> None:
    """The long form."""
    source = next((Path.home() / ".cache/inferd-tests/models/smollm2").glob("*.gguf"))
    async with asking(source) as client:
        deletion, insertion, costs = await judge(client, count)
    for name, each in (("deletion", deletion), ("insertion", insertion)):
        better = sum(one > 0 for one in each)
        print(f"{name}: better than a random order in {better} of {len(each)}, p = {flip_test(each):.2g}")  # noqa: T201
    off = max(abs(each - 1) for each in costs)
    print(f"cost: {sum(costs) / len(costs):.4f} of what was stated, at most {off:.1%} off")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
