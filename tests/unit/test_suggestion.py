"""The nearest known name."""

import random
import string

import pytest

from inferd import spelling
from inferd.spelling import COMPARED, LONGEST_NAME, suggestion

LETTERS = string.ascii_lowercase + "/.-"


@pytest.mark.parametrize(
    ("name", "near"),
    [("smolm2", "smollm2"), ("SMOLLM2", "smollm2"), ("lama", "llama"), ("qwen", "Qwen3-0.6B"), ("zzz", ""), ("", "")],
)
def test_near_names(name: str, near: str) -> None:
    """A slip of the hand or of the shift key is found; nothing is suggested where nothing is near."""
    assert suggestion(name, ["smollm2", "llama", "Qwen3-0.6B", "mistral"]) == near


def test_a_slip_among_a_thousand_long_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among as many long names as a kernel may know the right one is found, and few are compared letter by letter."""
    draw = random.Random(7)
    known = ["".join(draw.choices(LETTERS, k=LONGEST_NAME)) for _ in range(1000)]
    compared: list[int] = []
    compare = spelling.get_close_matches

    def count(name: str, names: list[str], **options: float) -> list[str]:
        compared.append(len(names))
        return compare(name, names, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(spelling, "get_close_matches", count)
    for wanted in known[:20]:
        at = draw.randrange(LONGEST_NAME)
        assert suggestion(wanted[:at] + "_" + wanted[at + 1 :], known) == wanted
    assert max(compared) <= COMPARED


def test_what_is_no_name() -> None:
    """A text longer than any name is compared with nothing."""
    assert suggestion("x" * (LONGEST_NAME + 1), ["x" * LONGEST_NAME]) == ""
