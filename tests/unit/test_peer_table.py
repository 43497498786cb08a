"""The table that `make peers` writes into a document."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, with those of the bench beside it."""
    before = set(sys.modules)
    for folder in (BENCH, BENCH / "peers"):
        monkeypatch.syspath_prepend(folder)
    import peer_table  # noqa: PLC0415 - the path is there only now

    yield peer_table
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCH):
            del sys.modules[name]


def test_table_takes_the_place_of_its_own(peers: ModuleType, tmp_path: Path) -> None:
    """A table replaces that of its instruction set alone; it has medians, the ratio to the best peer, and reasons."""
    from catalogue import ENTRIES  # noqa: PLC0415 - as above
    from workload import CASES  # noqa: PLC0415 - as above

    document = tmp_path / "performance.md"
    document.write_text("# Before\n\n<!-- peers amx -->\nkept\n<!-- /peers amx -->\n")
    entries = [next(one for one in ENTRIES if one.name == name) for name in ("inferd 4-bit served", "llama.cpp Q4_0")]
    absent = next(one for one in ENTRIES if one.environment == "vllm")
    for rate in (40.0, 80.0):
        sitting = peers.Sitting("a processor", "avx2", "2026-11-30", [CASES[0]], [*entries, absent])
        sitting.rates = {(entries[0].name, "b1"): [rate, 3 * rate, 2 * rate], (entries[1].name, "b1"): [rate]}
        sitting.limits[None, "b1"] = 4 * rate
        sitting.missing[absent.name] = "SIGILL: it said nothing"
        peers.write(document, sitting)
    text = document.read_text()
    assert "kept" in text
    assert text.count("<!-- peers avx2 -->") == 1
    assert "| inferd 4-bit served | 160 (80 to 240) |" in text
    assert "| **served over the best peer** | **2.00** |" in text
    assert "| served, fraction of it, 4-bit weights | 0.50 |" in text
    assert f"- {absent.name}: SIGILL: it said nothing" in text
