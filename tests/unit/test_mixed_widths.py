"""Which layers stay wide within a budget of bytes."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.core.mixed_widths import MixedWidths, Sizes, choose, name_parts, narrow_settings
from inferd.core.optimization import ORIGINAL, Measurement, SearchLimits, Settings, Trial
from inferd.errors import InvalidFieldError
from inferd.plugin import LoadError
from inferd.runtime.front.mixed_widths import plan_widths
from inferd_cpu.wide_layers import read_wide_layers

MEASURED = Measurement(tokens_per_s=10, first_token_s=0.1, token_s=0.1, answer_s=1, memory_bytes=1000, perplexity=10)
SIZES = Sizes(narrow=100, parts=(10, 10, 30), budget=125)
LOSSES = {narrow_settings((), 3): 0.3, narrow_settings((0,), 3): 0.1, narrow_settings((1,), 3): 0.25}


def follow(search: MixedWidths, losses: dict[Settings, float], allowed: float) -> list[Trial]:
    """Run a search against losses that are given; those at the end cost what is in `losses`, too."""
    trials = []
    while (trial := search.next()) is not None:
        trials.append(trial)
        measured = replace(MEASURED, loss=losses.get(trial.settings, 0.0))
        (search.tell if measured.loss <= allowed else search.tell_rejected)(trial, measured)
    return trials


def test_each_part_that_fits_is_tried_and_the_best_mix_is_measured_at_the_end() -> None:
    """One trial a part; one that would not fit alone is left out, and the mix of those worth most is the last."""
    mix = narrow_settings((0, 1), 3)
    search = MixedWidths(SIZES)
    trials = follow(search, {**LOSSES, mix: 0.04}, 0.05)
    assert [each.settings for each in trials] == [ORIGINAL, *LOSSES, ORIGINAL, mix]
    assert [each.rounds for each in trials] == [1, 0, 0, 0, 3, 3]
    assert [each.final for each in trials] == [False] * 4 + [True] * 2
    assert dict(mix) == {"quantization": "4bit", "wide_layers": "0/3,1/3"}
    assert (search.best, search.has_finals, search.trials, search.shortfall) == (mix, True, 7, "")


def test_a_mix_that_costs_too_much_leaves_the_model_as_it_is() -> None:
    """What counts is what the mix was measured to cost, not what its parts let hope for."""
    search = MixedWidths(SIZES)
    follow(search, {**LOSSES, narrow_settings((0, 1), 3): 0.2}, 0.05)
    assert (search.best, search.has_finals) == (ORIGINAL, True)
    assert "within 125 bytes of weights costs as little as is allowed" in search.shortfall
    assert "quantization=4bit wide_layers=0/3,1/3, costs 20.00%" in search.shortfall


def test_a_narrow_model_that_could_not_be_loaded_ends_the_search() -> None:
    """Without it nothing tells what a part is worth."""
    search = MixedWidths(SIZES)
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    assert (first.settings, second.settings, search.next()) == (ORIGINAL, narrow_settings((), 3), None)
    assert search.best == ORIGINAL
    assert "was measured to its end" in search.shortfall


def test_one_that_is_hurried_measures_the_mix_of_what_it_knows() -> None:
    """Parts that were not tried count as worth nothing."""
    search = MixedWidths(SIZES)
    trials = []
    while (trial := search.next()) is not None:
        trials.append(trial.settings)
        search.tell(trial, replace(MEASURED, loss=LOSSES.get(trial.settings, 0.0)))
        if trial.settings == narrow_settings((0,), 3):
            search.hurry()
    assert trials == [ORIGINAL, narrow_settings((), 3), narrow_settings((0,), 3), ORIGINAL, narrow_settings((0,), 3)]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(-1, 1, allow_nan=False)), min_size=1, max_size=7),
    st.integers(0, 200),
)
def test_no_other_set_within_the_budget_is_worth_more(parts: list[tuple[int, float]], room: int) -> None:
    """The chosen set is within the budget, and none of all sets that are is worth more."""
    sizes = Sizes(narrow=100, parts=tuple(size for size, _ in parts), budget=100 + room)
    worth = [each for _, each in parts]
    chosen = choose(sizes, worth)
    assert sum(sizes.parts[part] for part in chosen) <= room
    found = sum(worth[part] for part in chosen)
    for count in range(len(parts) + 1):
        for others in combinations(range(len(parts)), count):
            if sum(sizes.parts[part] for part in others) <= room:
                assert sum(worth[part] for part in others) <= found + 1e-12


async def test_a_budget_that_says_nothing_is_refused_with_both_numbers() -> None:
    """Below the narrowest weights, and above those that there are."""

    async def weigh(settings: Settings) -> int:
        named = dict(settings)
        return 1000 if not named else 400 + 100 * len(named.get("wide_layers", "").split("/")[:-1])

    limits = SearchLimits(trials=10)
    for budget, told in ((399, "take 400 bytes"), (1000, "take 1000 bytes")):
        with pytest.raises(InvalidFieldError, match=f"{budget}.*{told}"):
            await plan_widths(weigh, budget=budget, limits=limits)
    search = await plan_widths(weigh, budget=600, limits=limits)
    assert search.sizes == Sizes(narrow=400, parts=(100,) * 6, budget=600)


def test_layers_are_named_by_numbers_ranges_and_parts_of_the_depth() -> None:
    """All parts of so many are all layers, each once, also where they do not divide evenly."""
    read = lambda text: read_wide_layers(text, layers=30, quantization="4bit")  # noqa: E731
    assert read("0-2, 29") == {0, 1, 2, 29}
    assert read("0/8") == {0, 1, 2}
    assert read("7/8") == {26, 27, 28, 29}
    assert read(name_parts(range(12), 12)) == set(range(30))
    assert sum(len(read(f"{part}/7")) for part in range(7)) == 30
    assert read(None) == read("") == frozenset()


@pytest.mark.parametrize(
    ("text", "quantization", "told"),
    [
        ("0", "auto", "needs quantization=4bit"),
        ("30", "4bit", "layers 0 to 29"),
        ("5-2", "4bit", "layers 0 to 29"),
        ("8/8", "4bit", "from 0 to 7"),
        ("first", "4bit", "'first'"),
        ("1,", "4bit", "''"),
        (",".join("0" for _ in range(1001)), "4bit", "1001 pieces"),
        ("٣", "4bit", "no number"),
    ],
)
def test_what_names_no_layer_is_refused(text: str, quantization: str, told: str) -> None:
    """The error says what is wrong, and what there is."""
    with pytest.raises(LoadError, match=told):
        read_wide_layers(text, layers=30, quantization=quantization)
