"""What the bench tells of a figure's bound, and which tokens its cases count."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of the bench, on the path for one test."""
    before = set(sys.modules)
    for folder in (BENCH, BENCH / "peers"):
        monkeypatch.syspath_prepend(folder)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCH):
            del sys.modules[name]


@pytest.mark.usefixtures("bench")
def test_a_bound_is_told_beside_its_figure() -> None:
    """Figures with a bound end with it, and with whether it is held; others and skipped ones stay as they are."""
    from bounds import judged  # noqa: PLC0415 - the path is there only now
    from limits import Figure  # noqa: PLC0415 - as above

    given = {"fair.flood.ttft": 1.4, "speculation.cost": 0.96, "fair.share.equal": 1.2, "served.b1": 9.0, "gap.x": None}
    figures = (Figure(name=name, value=value, unit="u", detail="d") for name, value in given.items())
    assert [figure["detail"] for figure in judged(figures)] == [
        "d; bound: at most 1.5: held",
        "d; bound: at least 0.97: MISSED",
        "d; bound: at least 0.9 and at most 1.1: MISSED",
        "d",
        "d",
    ]


@pytest.mark.usefixtures("bench")
def test_a_case_that_decodes_leaves_its_prompts_out() -> None:
    """Its figure counts what comes behind the first tokens; what is taken apart has prompts as long, and others."""
    from workload import LONG, room  # noqa: PLC0415 - as above

    case = next(each for each in LONG if each.decodes)
    assert case.figure == (case.sequences * (case.output_tokens - 1), "output tok/s")
    assert (case.reading.output_tokens, case.reading.decodes) == (1, False)
    assert list(map(len, case.reading.prompts())) == list(map(len, case.prompts()))
    assert not {*map(tuple, case.reading.prompts())} & {*map(tuple, case.prompts())}
    assert room([case.name]) == case.sequences * (case.prompt_tokens + case.output_tokens)


@pytest.mark.usefixtures("bench")
def test_tables_of_long_contexts_and_shapes_have_places_of_their_own() -> None:
    """A sitting of long contexts, or of a larger model, does not replace the table of the usual cases."""
    from peer_table import Sitting  # noqa: PLC0415 - as above
    from workload import CASES, LONG  # noqa: PLC0415 - as above

    usual = Sitting("p", "avx2", "d", list(CASES), [])
    long = Sitting("p", "avx2", "d", list(LONG), [])
    large = Sitting("p", "avx2", "d", list(CASES), [], shape="3b")
    assert [each.mark for each in (usual, long, large)] == ["peers avx2", "peers avx2 long", "peers avx2 3b"]
