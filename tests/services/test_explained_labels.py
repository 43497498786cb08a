"""Explanations of what a classifier finds: for each label, by ordinary tasks on parts of the text."""

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from classifier_rows import ask, make_rows, write_rows

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_client import AsyncClient
from inferd_client.errors import InferdError, InvalidFieldError, LimitExceededError, UnsupportedInputError
from inferd_client.explanation_pages import explanation_page
from inferd_heads.backend import HeadsBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "a gull over the salt tide saw a stone"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with a classifier, "topics", and two models that are none."""
    folder = tmp_path_factory.mktemp("labels")
    training = HeadsBackend().train(ask(write_rows(folder / "rows.jsonl", make_rows(90)), epochs=3.0), lambda _: None)
    for _ in range(training.steps):
        training.step()
    (folder / "model").mkdir()
    training.export(folder / "model")
    training.close()
    async with (
        kernel_here(folder, backends=("heads",), explanations={"sequences": 100}) as kernel,
        AsyncClient(kernel.addresses[0]) as made,
    ):
        await made.create_model("topics", str(folder / "model"))
        await made.create_model("few", str(folder / "model"), settings={"top": 1})
        await made.create_model("adder", str(write_fake_model(folder, "adder", tensor="add")))
        yield made


async def chances(client: AsyncClient, text: str) -> dict[str, float]:
    """The logarithm of the chance of each label, as a client gets it."""
    told = await client.infer("topics", {"text": [text]})
    return {label: math.log(score) for label, score in zip(told["label"][0], told["label_score"][0], strict=True)}


async def test_each_word_is_told_by_what_each_label_loses_without_it(client: AsyncClient) -> None:
    """Scores are the differences that leaving a word out makes, for every label, the likeliest one first."""
    told = [each async for each in client.follow_explanation("topics", TEXT)]
    plan, found = told[0].plan, told[-1].explanation
    assert await client.plan_explanation("topics", TEXT) == plan
    whole, nothing = await chances(client, TEXT), await chances(client, "")
    assert found.answer == "sea"
    assert [each.name for each in found.targets] == sorted(whole, key=lambda label: -whole[label])
    for each in found.targets:
        assert (each.value, each.baseline) == pytest.approx((whole[each.name], nothing[each.name]), abs=1e-5)
    words = TEXT.split(" ")
    assert [each.text.strip() for each in found.spans] == words
    for number, span in enumerate(found.spans):
        left = await chances(client, " ".join(words[:number] + words[number + 1 :]))
        expected = [whole[each.name] - left[each.name] for each in found.targets]
        assert [each.score for each in span.scores] == pytest.approx(expected, abs=1e-5)
    scores = {
        each.text.strip(): dict(zip(whole, (one.score for one in each.scores), strict=True)) for each in found.spans
    }
    assert scores["salt"]["sea"] > 0 > scores["stone"]["sea"]
    judged = found.faithfulness
    assert judged.ranked.deletion_area < min(each.deletion_area for each in judged.random)
    assert found.cost.sequences <= plan.cost.sequences == found.planned.sequences
    assert told[-2].progress.sequences_done > 0


async def test_one_label_against_another(client: AsyncClient) -> None:
    """A label that is named is explained, against another by the difference of both; Shapley's scores add up."""
    spans = [(2, 6), (16, 25), (32, 37)]
    asked: dict[str, Any] = {"answer": "soil", "against": "sea", "spans": spans, "method": "shapley", "samples": 4}
    found = await client.explain("topics", [{"role": "user", "content": TEXT}], **asked, random_orders=0)
    assert [each.name for each in found.targets] == ["soil - sea", "soil", "sea", "sky"]
    for each in found.spans:
        assert each.scores[0].score == pytest.approx(each.scores[1].score - each.scores[2].score)
    total = sum(each.scores[0].score for each in found.spans)
    assert total == pytest.approx(found.targets[0].value - found.targets[0].baseline)
    assert [each.text for each in found.spans] == ["gull", "salt tide", "stone"]


async def test_the_page_has_every_label(client: AsyncClient) -> None:
    """The page marks the text once for each label, and says nothing of tokens."""
    page = explanation_page(await client.explain("topics", TEXT, random_orders=0))
    assert page.count('<div class="text">') == 3
    assert "<h2>sky: " in page
    assert "Tokens of" not in page


async def test_what_is_no_classifier_is_refused(client: AsyncClient) -> None:
    """Labels that are not told, models that take or tell something else, and too many parts are refused by name."""

    async def why(kind: type[InferdError], model: str, prompt: Any = TEXT, **options: Any) -> str:
        with pytest.raises(kind) as told:
            await client.explain(model, prompt, **options)
        return str(told.value)

    said = await why(InvalidFieldError, "topics", answer="soul")
    assert "spec.answer is 'soul'" in said
    assert "did you mean 'soil'?" in said
    for both in ({"answer": "soil", "against": "soil"}, {"against": (await client.explain("topics", TEXT)).answer}):
        assert "name another label" in await why(InvalidFieldError, "topics", **both)
    assert "takes 2 inputs, 0 of them texts" in await why(UnsupportedInputError, "adder")
    assert "tells 1 labels of a text, and not always" in await why(UnsupportedInputError, "few", unit="word")
    messages = [{"role": "user", "content": "salt"}, {"role": "user", "content": "tide"}]
    assert "the conversation has 2" in await why(UnsupportedInputError, "topics", messages)
    assert "has no adapters" in await why(InvalidFieldError, "topics", adapter="legal")
    assert "explanations.sequences is 100" in await why(LimitExceededError, "topics", "one two " * 60)
