"""What explanations ask and what follows from the answers, on worths that are known."""

import asyncio
from array import array
from itertools import combinations
from math import factorial, inf
from typing import Any

import pytest

from inferd.core.explained_spans import Span, SpanUnit, check_spans, split, without
from inferd.core.explanation import Design, ExplanationMethod, attribute, judge, rank
from inferd.core.prefix_plan import PrefixPlan
from inferd.errors import InvalidFieldError
from inferd.runtime.front import rescoring
from inferd.runtime.front.rescoring import Rescoring, Variant

SHAPLEY, ONE_OUT = ExplanationMethod.SHAPLEY, ExplanationMethod.LEAVE_ONE_OUT


def worth(coalition: int) -> tuple[float, ...]:
    """Spans 0 and 1 say the same, 2 adds 3 of its own, 3 takes 1 away, 4 says nothing."""
    here = [bool(coalition >> span & 1) for span in range(5)]
    return (5.0 * (here[0] or here[1]) + 3.0 * here[2] - here[3], float(here[4]))


def exact(spans: int, target: int) -> list[float]:
    """Shapley values, by their definition."""
    found = []
    for span in range(spans):
        others, total = [each for each in range(spans) if each != span], 0.0
        for size in range(spans):
            weight = factorial(size) * factorial(spans - size - 1) / factorial(spans)
            for chosen in combinations(others, size):
                coalition = sum(1 << each for each in chosen)
                total += weight * (worth(coalition | 1 << span)[target] - worth(coalition)[target])
        found.append(total)
    return found


def test_shapley_values_are_what_the_definition_says() -> None:
    """Two that say the same share it, leave-one-out sees neither; the sum is exact; the seed says what is drawn."""
    design = Design(method=SHAPLEY, spans=5, samples=200, seed=3)
    worths = {each: worth(each) for each in design.coalitions()}
    for target in (0, 1):
        scores = attribute(design, worths, target=target)
        for score, right in zip(scores, exact(5, target), strict=True):
            assert score.value == pytest.approx(right, abs=4 * (score.error or 0) + 1e-9)
    assert sum(score.value for score in attribute(design, worths)) == pytest.approx(worth(31)[0] - worth(0)[0])
    assert attribute(design, worths)[2].error == pytest.approx(0)
    alone = Design(method=ONE_OUT, spans=5)
    assert alone.coalitions() == [31, 0, 30, 29, 27, 23, 15]
    scores = attribute(alone, {each: worth(each) for each in alone.coalitions()})
    assert [score.value for score in scores] == [0, 0, 3, -1, 0]
    assert {score.error for score in scores} == {None}
    again = Design(method=SHAPLEY, spans=5, samples=200, seed=3)
    assert (again.sampled, again.others) == (design.sampled, design.others)
    assert Design(method=SHAPLEY, spans=5, samples=200, seed=4).sampled != design.sampled
    assert all(order == reverse[::-1] for order, reverse in zip(design.sampled[::2], design.sampled[1::2], strict=True))


@pytest.mark.parametrize("spans", [1, 2, 7, 10, 33])
def test_curves_of_the_right_order_are_better_than_random_ones(spans: int) -> None:
    """All worths that they need were asked for; each has both its ends, and the highest first fall and rise first."""
    design = Design(method=ONE_OUT, spans=spans, random_orders=6, seed=1)

    def value(coalition: int) -> tuple[float, ...]:
        return (float(sum(2.0**-span for span in range(spans) if coalition >> span & 1)),)

    worths = {each: value(each) for each in design.coalitions()}
    order = rank(attribute(design, worths))
    assert order == tuple(range(spans))
    worths |= {each: value(each) for each in design.ranked(order)}
    found = judge(design, worths, order)
    assert found is not None
    whole = value(design.all)[0]
    assert (found.sizes[0], found.sizes[-1]) == (0, spans)
    assert len(found.sizes) <= 12
    for curves in (found.ranked, *found.random):
        assert (curves.deletion[0], curves.deletion[-1]) == (whole, 0)
        assert (curves.insertion[0], curves.insertion[-1]) == (0, whole)
        assert found.area(found.ranked.deletion) <= found.area(curves.deletion) + 1e-12
        assert found.area(found.ranked.insertion) >= found.area(curves.insertion) - 1e-12
    assert judge(Design(method=ONE_OUT, spans=spans), worths, order) is None


@pytest.mark.parametrize(
    ("unit", "text", "parts"),
    [
        (SpanUnit.WORD, "Größe  matters,\n ok ", ["Größe", "  matters,", "\n ok "]),
        (SpanUnit.WORD, "東京は big", ["東", "京", "は", " big"]),
        (SpanUnit.SENTENCE, "One. Two?  \nThree", ["One. ", "Two?  \n", "Three"]),
        (SpanUnit.SENTENCE, "「はい。」いいえ。", ["「はい。", "」いいえ。"]),
        (SpanUnit.SENTENCE, "...", ["..."]),
        (SpanUnit.MESSAGE, " all of it. Yes. ", [" all of it. Yes. "]),
        (SpanUnit.WORD, " \n ", []),
        (SpanUnit.MESSAGE, "", []),
    ],
)
def test_the_parts_of_a_text_are_all_of_it(unit: SpanUnit, text: str, parts: list[str]) -> None:
    """They lie one behind the other, in bytes that cut no character, and nothing is left without them."""
    found = split(text, unit)
    assert [text.encode()[begin:end].decode() for begin, end in found] == parts
    if parts:
        spans = [Span(0, *each) for each in found]
        check_spans(spans, [text])
        assert without(text, spans) == ""
        assert without(text, spans[:1]) == "".join(parts[1:])


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([Span(0, 2, 4)], "cuts a character"),
        ([Span(0, 3, 3)], "one byte at least"),
        ([Span(0, 3, 99)], "its text has 6"),
        ([Span(1, 0, 1)], "has 1 texts"),
        ([Span(0, 3, 6), Span(0, 0, 5)], "before spec.spans[1] ends at 5"),
    ],
)
def test_spans_that_are_none_are_refused(spans: list[Span], said: str) -> None:
    """What lies outside of its text, cuts a character, has nothing or lies over another one is INVALID_FIELD."""
    with pytest.raises(InvalidFieldError, match=r"spec\.spans") as caught:
        check_spans(spans, ["aäßb"])
    assert said in caught.value.message
    assert caught.value.field.startswith("spec.spans[")


def test_worths_that_have_no_end_are_not_what_is_ranked_by() -> None:
    """Equal scores come in the order of their spans, so that ranks are the same each time."""
    design = Design(method=ONE_OUT, spans=3)
    assert rank(attribute(design, dict.fromkeys(design.coalitions(), (-1e4,)))) == (0, 1, 2)
    assert -inf < attribute(design, dict.fromkeys(design.coalitions(), (-1e4,)))[0].value < inf


def test_beginnings_are_planned_once() -> None:
    """Full blocks of earlier sequences count, up to the one before what is told of; a copy goes its own way."""
    plan = PrefixPlan(4)
    base = array("I", range(20))
    assert (plan.add(base, 3).cached_tokens, plan.add(base, 3).after) == (0, 0)
    other = array("I", [*range(9), 77, *range(10, 20)])
    copy = plan.copy()
    for each in (plan, copy):
        planned = each.add(other, 3)
        assert (planned.cached_tokens, planned.after) == (8, 0)
        assert each.add(other, 3).cached_tokens == 16
        assert each.add(other, 4).cached_tokens == 12
        assert each.add(array("I", [77]), 1).cached_tokens == 0
    assert PrefixPlan(0).add(base, 3).after is None


async def test_sequences_are_planned_while_others_come_to_their_turn() -> None:
    """After `BREATH_TOKENS` the loop is given to others, in adding and in guessing; equal sequences cost once."""
    nothing: dict[str, Any] = {"driver": None, "tasks": None, "asker": None, "in_flight": 1, "alternatives": 0}
    plan = Rescoring(**nothing, prefixes=PrefixPlan(16))
    half = rescoring.BREATH_TOKENS // 2
    variants = [Variant(number, 0, array("I", range(number, number + half)), 1) for number in (3, 1, 2, 0)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        meanwhile = group.create_task(others())
        cost = await plan.add(variants)
        added = turns
        assert (await plan.guess(variants)).sequences == 0
        assert (await plan.guess([Variant(9, 0, array("I", range(9, 9 + half)), 1)] * 4)).sequences == 1
        meanwhile.cancel()
    assert (cost.sequences, cost.tokens, added > 0, turns > added) == (4, 4 * half, True, True)
