"""Which settings a search tries, and which it holds for the best."""

import math
import random
from collections.abc import Callable, Mapping

import pytest

from inferd.core.optimization import (
    LEAST_GAIN,
    ORIGINAL,
    Knob,
    Measurement,
    OptimizationTarget,
    QualityBound,
    Search,
    SearchLimits,
    Settings,
    Trial,
    core_counts,
    find_knobs,
)
from inferd.errors import InvalidFieldError
from inferd.runtime.front.measuring import Reading, make_workload

BITS, THREADS = Knob("quantization", ("8bit", "4bit")), Knob("threads", ("1", "2"))
KNOBS = (BITS, THREADS, Knob("draft_tokens", ("2", "4", "8")))


def measured(rate: float, *, answer_s: float = 1.0, memory_bytes: int = 1000) -> Measurement:
    return Measurement(
        tokens_per_s=rate,
        first_token_s=0.1,
        token_s=0.1,
        answer_s=answer_s,
        memory_bytes=memory_bytes,
        perplexity=2.0,
    )


def run(search: Search, measure: Callable[[Trial], Measurement | None]) -> list[Trial]:
    """All trials of a search, each told what `measure` says of it; None for one that came to nothing."""
    trials = []
    while (trial := search.next()) is not None:
        trials.append(trial)
        if (found := measure(trial)) is not None:
            search.tell(trial, found)
    return trials


def product_of(factors: Mapping[tuple[str, str], float]) -> Callable[[Trial], Measurement]:
    """A model whose rate is a product of what each setting does to it."""

    def measure(trial: Trial) -> Measurement:
        rate = 100.0
        for setting in trial.settings:
            rate *= factors.get(setting, 1.0)
        return measured(rate)

    return measure


def test_the_original_comes_first_and_the_best_are_measured_again() -> None:
    """The last trials are the original and the best few, longer; of these the best is what is found."""
    search = Search(KNOBS, OptimizationTarget.THROUGHPUT, SearchLimits(trials=24, finalists=2, final_rounds=3))
    trials = run(search, product_of({("quantization", "4bit"): 1.5, ("threads", "2"): 1.2, ("draft_tokens", "8"): 0.5}))
    assert trials[0] == Trial(number=1)
    assert next((each.settings, each.rounds) for each in trials if each.final) == (ORIGINAL, 3)
    assert [each.final for each in trials] == sorted(each.final for each in trials)
    assert len([each for each in trials if each.final]) == 3
    assert search.best == (("quantization", "4bit"), ("threads", "2"))


def test_few_trials_are_all_for_new_settings() -> None:
    """With fewer than would be worth it none is kept for the end."""
    trials = run(Search(KNOBS, OptimizationTarget.THROUGHPUT, SearchLimits(trials=6)), product_of({}))
    assert (len(trials), [each for each in trials if each.final]) == (6, [])


def test_what_is_not_told_is_never_the_best() -> None:
    """A trial that cost too much quality, or had no room, is passed over, however fast it would be."""
    search = Search(KNOBS, OptimizationTarget.THROUGHPUT)
    fast = product_of({("quantization", "4bit"): 9.0, ("quantization", "8bit"): 1.1})
    run(search, lambda trial: None if ("quantization", "4bit") in trial.settings else fast(trial))
    assert search.best == (("quantization", "8bit"),)


def test_a_little_better_is_not_better() -> None:
    """The model stays as it is where nothing is better by more than chance is."""
    search = Search(KNOBS, OptimizationTarget.THROUGHPUT)
    run(search, product_of({("quantization", "4bit"): 1 + LEAST_GAIN / 2}))
    assert search.best == ORIGINAL


def test_a_lucky_trial_is_found_out_at_the_end() -> None:
    """One that was fast once, and is not when it is measured again, does not win."""
    search = Search((BITS,), OptimizationTarget.THROUGHPUT)
    lucky = (("quantization", "4bit"),)
    run(search, lambda trial: measured(500.0 if trial.settings == lucky and not trial.final else 100.0))
    assert search.best == ORIGINAL


@pytest.mark.parametrize(
    ("target", "better"),
    [
        (OptimizationTarget.THROUGHPUT, measured(200.0)),
        (OptimizationTarget.LATENCY, measured(100.0, answer_s=0.5)),
        (OptimizationTarget.MEMORY, measured(100.0, memory_bytes=500)),
    ],
)
def test_each_target_has_its_measure(target: OptimizationTarget, better: Measurement) -> None:
    """Twice as good is a score twice as high, in tokens a second, time of an answer, or memory."""
    assert better.score(target) == pytest.approx(2 * measured(100.0).score(target))
    search = Search((BITS,), target)
    run(search, lambda trial: better if trial.settings == (("quantization", "8bit"),) else measured(100.0))
    assert search.best == (("quantization", "8bit"),)


def test_a_search_that_hurries_tries_nothing_new() -> None:
    """What was measured until then is measured again at the end, and that is all."""
    search = Search(KNOBS, OptimizationTarget.THROUGHPUT, SearchLimits(finalists=1))
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    search.tell(first, measured(100.0))
    search.tell(second, measured(150.0))
    search.hurry()
    assert [each.settings for each in run(search, lambda _: measured(100.0))] == [ORIGINAL, second.settings]


def test_quality_has_two_bounds() -> None:
    """A trial may cost so much of perplexity, and so much of agreement; no number is no quality."""
    bound = QualityBound(loss=0.01, agreement=0.9)
    assert bound.allows(loss=0.01, agreement=0.9)
    assert bound.allows(loss=-0.2, agreement=1.0)
    assert not bound.allows(loss=0.011, agreement=1.0)
    assert not bound.allows(loss=0.0, agreement=0.89)
    assert not bound.allows(loss=float("nan"), agreement=1.0)


def test_knobs_are_the_settings_that_the_backend_has() -> None:
    """Each without the value that it has; those of cores by powers of two; for memory only what matters for it."""
    choices: dict[str, tuple[str, ...]] = {"quantization": ("auto", "8bit", "4bit"), "threads": (), "draft_tokens": ()}
    now = {"quantization": "auto", "threads": "6", "draft_tokens": "0"}
    knobs = find_knobs(choices, now, target=OptimizationTarget.LATENCY, cores=6, only=())
    assert knobs == [BITS, Knob("threads", ("1", "2", "4")), Knob("draft_tokens", ("2", "4", "8"))]
    assert find_knobs(choices, now, target=OptimizationTarget.MEMORY, cores=6, only=()) == [BITS]
    assert find_knobs(choices, now, target=OptimizationTarget.LATENCY, cores=6, only=["threads"]) == [knobs[1]]
    found = find_knobs({**choices, "intra_threads": ()}, now, target=OptimizationTarget.LATENCY, cores=6, only=())
    assert [each.name for each in found] == ["quantization", "intra_threads", "draft_tokens"]
    assert (core_counts(0), core_counts(1), core_counts(8)) == ((), ("1",), ("1", "2", "4", "8"))


@pytest.mark.parametrize("seed", range(200))
def test_a_search_keeps_its_bounds_whatever_is_measured(seed: int) -> None:
    """It tries nothing twice but at the end, no more than it may, finds nothing worse than the original, and replays.

    Where each setting acts by itself, and there are trials enough, it finds the best of all.
    """
    rng = random.Random(seed)
    knobs = [Knob(f"k{n}", tuple(str(v) for v in range(1, rng.randint(2, 5)))) for n in range(rng.randint(1, 4))]
    factors = {(knob.name, value): rng.uniform(0.5, 2.0) for knob in knobs for value in knob.values}
    limits = SearchLimits(trials=rng.choice([2, 3, 5, 12, 24, 200]), finalists=rng.randint(0, 3))
    lost = rng.random() * 0.3
    unlucky = {each for each in factors if rng.random() < lost}
    truth = product_of(factors)

    def measure(trial: Trial) -> Measurement | None:
        return None if unlucky.intersection(trial.settings) else truth(trial)

    def search() -> Search:
        return Search(knobs, OptimizationTarget.THROUGHPUT, limits, seed)

    found, again = search(), search()
    trials = run(found, measure)
    assert run(again, measure) == trials
    assert again.best == found.best
    assert 1 <= len(trials) <= limits.trials
    walk = [each.settings for each in trials if not each.final]
    assert len(set(walk)) == len(walk)
    assert [each.number for each in trials] == list(range(1, len(trials) + 1))
    assert rate(truth, found.best) >= rate(truth, ORIGINAL)
    if limits.trials == 200:
        allowed = {setting: factor for setting, factor in factors.items() if setting not in unlucky and factor > 1}
        helpful = [max((f, each) for each, f in allowed.items() if each[0] == name) for name in {n for n, _ in allowed}]
        best: Settings = tuple(sorted(each for _, each in helpful))
        assert rate(truth, found.best) >= rate(truth, best) / (1 + LEAST_GAIN)


def rate(truth: Callable[[Trial], Measurement], settings: Settings) -> float:
    return truth(Trial(number=1, settings=settings)).tokens_per_s


def test_a_text_becomes_windows_and_prompts() -> None:
    """Quality is measured on all of it, in parts that fit the context; a short text comes again in prompts."""
    load = make_workload(range(100), context_tokens=65, in_flight=3, prompt_tokens=60, output_tokens=5)
    assert [*map(list, load.windows)] == [[*range(64)], [*range(64, 100)]]
    assert load.text_tokens == 100
    assert [*map(list, load.prompts)] == [[*range(60)], [*range(60, 100), *range(20)], [*range(20, 80)]]


@pytest.mark.parametrize(
    ("tokens", "prompt_tokens", "field", "said"),
    [(63, 10, "text", "text has 63 tokens; it must have at least 64"), (64, 99, "prompt_tokens", "room for 100 ")],
)
def test_a_text_that_is_too_short_is_refused(tokens: int, prompt_tokens: int, field: str, said: str) -> None:
    """And so are tasks that the context has no room for; with both numbers."""
    with pytest.raises(InvalidFieldError, match=said) as caught:
        make_workload(range(tokens), context_tokens=100, in_flight=1, prompt_tokens=prompt_tokens, output_tokens=2)
    assert caught.value.field == field


def test_agreement_is_of_places() -> None:
    """Of the likeliest tokens, how many are the same; the loss is of perplexities."""
    original = Reading(logprobs=[-1.0, -2.0, -3.0, -2.0], best=[1, 2, 3, 4])
    other = Reading(logprobs=[-1.1, -2.1, -3.1, -2.1], best=[1, 2, 9, 4])
    assert (other.agreement(original), original.agreement(original)) == (0.75, 1.0)
    assert original.perplexity == pytest.approx(math.exp(2.0))
    assert other.loss(original) == pytest.approx(math.exp(0.1) - 1)
    assert other.loss_error(original) == pytest.approx(0.0, abs=1e-9)  # the same everywhere
    uneven = Reading(logprobs=[-1.0, -2.0, -3.4, -2.0], best=[1, 2, 3, 4])
    assert uneven.loss_error(original) == pytest.approx(0.1 * math.exp(0.1))
