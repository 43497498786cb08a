"""Explanations held against captum's, and against chance with a real model: minutes of processor time.

`python tests/system/test_explained_prompts.py [COUNT] [FILE]` is the long form: so many prompts of real text, 200 by
default. What each came to is a line of FILE; asked for again with it, it goes on with those that are missing.
"""

import argparse
import asyncio
import json
import re
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
AT_ONCE = 4  # explanations, whose sequences are computed together; the share of one tenant
FLIPS = 100_000
TEXT = "a big red fox ran over the hill and"
ANSWER = " slept"
AGAINST = " woke"
PAD = "<end>"
STEPS = 12  # of the way of gradients
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


def read_results(results: Path | None) -> dict[str, list[float]]:
    """What prompts came to that were asked before."""
    if results is None or not results.exists():
        return {}
    return {line["prompt"]: line["found"] for line in map(json.loads, results.read_text("utf-8").splitlines())}


async def judge(
    client: AsyncClient, count: int, results: Path | None = None
) -> tuple[list[float], list[float], list[float]]:
    """By how much deletion and insertion are better than by a random order, and cost by what was stated; by prompt.

    Args:
        client: Of the kernel.
        count: How many prompts.
        results: Has a line of what each came to, by the prompt: those that are there are not asked for again.
    """
    known = read_results(results)
    gate = asyncio.Semaphore(AT_ONCE)

    async def explain(number: int, prompt: str, answer: str) -> list[float]:
        if (name := prompt + answer) in known:
            return known[name]
        async with gate:
            found = await client.explain("m", prompt, answer=answer, random_orders=1, seed=number, alternatives=0)
        judged = found.faithfulness
        told = [
            judged.random[0].deletion_area - judged.ranked.deletion_area,
            judged.ranked.insertion_area - judged.random[0].insertion_area,
            found.cost.computed_tokens / found.planned.computed_tokens,
        ]
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"prompt": name, "found": told}) + "\n")
        return told

    asked = enumerate(prompts(count))
    all_told = await asyncio.gather(*(explain(number, prompt, answer) for number, (prompt, answer) in asked))
    deletion, insertion, costs = zip(*all_told, strict=True)
    return list(deletion), list(insertion), list(costs)


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
@pytest.mark.parametrize(("backend", "settings"), [("cpu", {"compute": "exact"}), ("torch", {})])
async def test_leave_one_out_is_captums(tmp_path: Path, backend: str, settings: dict[str, str]) -> None:
    """By a small random Llama, scores are captum's within 1e-3, for an answer and for one against another."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
    pytest.importorskip("captum", reason="captum is not installed: pip install captum, or make test-system")
    import tiny_networks  # noqa: PLC0415 - needs torch

    network = tiny_networks.write_network("llama", tmp_path / "llama")
    spans = [(at, at + len(word)) for word in SPANS for at in (TEXT.index(word),)]
    asked: dict[str, Any] = {"spans": spans, "random_orders": 0}
    async with asking(tmp_path / "llama", backend=backend, settings=settings) as client:
        one = await client.explain("m", TEXT, answer=ANSWER, **asked)
        both = await client.explain("m", TEXT, answer=ANSWER, against=AGAINST, **asked)
    expected, other = (by_captum(network, tmp_path / "llama", answer) for answer in (ANSWER, AGAINST))
    assert [each.scores[0].score for each in one.spans] == pytest.approx(expected, abs=1e-3)
    difference = [mine - theirs for mine, theirs in zip(expected, other, strict=True)]
    assert [each.scores[0].score for each in both.spans] == pytest.approx(difference, abs=1e-3)
    assert max(map(abs, expected)) > 0.01


@pytest.mark.asyncio
async def test_gradients_are_captums(tmp_path: Path) -> None:
    """By a small random Llama on torch, integrated gradients are captum's within 1e-3 of the largest of them."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
    pytest.importorskip("captum", reason="captum is not installed: pip install captum, or make test-system")
    import tiny_networks  # noqa: PLC0415 - needs torch
    import torch  # noqa: PLC0415 - as above
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - as above

    network = tiny_networks.write_network("llama", tmp_path / "llama").eval()
    async with asking(tmp_path / "llama", backend="torch") as client:
        asked: dict[str, Any] = {"answer": ANSWER, "method": "gradients", "steps": STEPS, "random_orders": 0}
        found = await client.explain("m", TEXT, **asked)
        prompt = list(await client.tokenize("m", TEXT))
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - as above

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "llama/tokenizer.json"))
    answer = tokenizer(ANSWER, add_special_tokens=False).input_ids
    ids = torch.tensor([[*prompt, *answer]])
    line_feed = tokenizer("\n", add_special_tokens=False).input_ids[-1]
    embed = network.get_input_embeddings()
    own = embed(ids).detach()
    other = own.clone()
    other[0, : len(prompt)] = embed.weight[line_feed].detach()

    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def worth(embedded: torch.Tensor) -> torch.Tensor:
        logprobs = network(inputs_embeds=embedded, use_cache=False).logits.log_softmax(-1)
        rows = logprobs[:, len(prompt) - 1 : -1]
        return rows.gather(-1, ids[:, len(prompt) :].expand(len(rows), -1)[..., None]).sum((1, 2))

    made = IntegratedGradients(worth)
    told = made.attribute(own, other, n_steps=STEPS, method="riemann_middle", internal_batch_size=8)
    expected = told.sum(-1)[0, : len(prompt)]
    total = sum(each.scores[0].score for each in found.spans)
    assert total == pytest.approx(float(expected.sum()), rel=1e-3, abs=1e-3)
    assert found.targets[0].replaced == pytest.approx(worth(other).item(), abs=1e-3)
    assert found.targets[0].value == pytest.approx(worth(own).item(), abs=1e-3)
    pieces = [tokenizer.decode([each]) for each in prompt]
    if [each.strip() for each in pieces] == [each.text.strip() for each in found.spans]:
        largest = float(expected.abs().max())
        scores = [each.scores[0].score for each in found.spans]
        assert scores == pytest.approx(expected.tolist(), abs=1e-3 * largest)


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


async def main(count: int, results: Path | None) -> None:
    """The long form."""
    source = next((Path.home() / ".cache/inferd-tests/models/smollm2").glob("*.gguf"))
    async with asking(source) as client:
        deletion, insertion, costs = await judge(client, count, results)
    for name, each in (("deletion", deletion), ("insertion", insertion)):
        better = sum(one > 0 for one in each)
        print(f"{name}: better than a random order in {better} of {len(each)}, p = {flip_test(each):.2g}")  # noqa: T201
    off = max(abs(each - 1) for each in costs)
    print(f"cost: {sum(costs) / len(costs):.4f} of what was stated, at most {off:.1%} off")  # noqa: T201


if __name__ == "__main__":
    given = argparse.ArgumentParser(description="explanations of real text, held against random orders")
    given.add_argument("count", type=int, nargs="?", default=200, metavar="COUNT")
    given.add_argument("results", type=Path, nargs="?", metavar="FILE")
    asked_for = given.parse_args()
    asyncio.run(main(asked_for.count, asked_for.results))
