import numpy as np
import pytest

from inferd.core.task import FinishReason, Usage
from inferd.engine.text.detokenizer import Detokenizer, Piece
from inferd.engine.token.sequence import Origin, Sequence
from inferd.sampling import Sampling

END = 9
PIECES: list[Piece] = ["a", "b", "c", b"\xe6", b"\x97", b"\xa5", "STO", "P!", "x", ""]


def sequence(*, max_tokens: int = 100, stop: tuple[str, ...] = (), ends: frozenset[int] = frozenset({END})) -> Sequence:
    return Sequence(
        Origin(1),
        prompt=np.array([7, 7, 7], np.int32),
        most_output=max_tokens,
        sampling=Sampling(stop=stop),
        ends=ends,
        detokenizer=Detokenizer(PIECES),
    )


@pytest.mark.parametrize(
    ("tokens", "texts", "finish"),
    [
        ([0, 1], ["a", "b"], None),
        ([0, END], ["a", ""], FinishReason.END_OF_TEXT),
        ([0, 6, 7], ["a", "", ""], FinishReason.STOP_STRING),
        ([0, 6, 8], ["a", "", "STOx"], None),
        ([0, 6, END], ["a", "", "STO"], FinishReason.END_OF_TEXT),
        ([3, 4, 5], ["", "", "日"], None),
        ([3, 4, END], ["", "", "\N{REPLACEMENT CHARACTER}"], FinishReason.END_OF_TEXT),
    ],
)
def test_texts_and_end(tokens: list[int], texts: list[str], finish: FinishReason | None) -> None:
    """Tokens give their texts; an end token or a stop string ends them, and gives what was held back until then."""
    one = sequence(stop=("STOP",))
    assert [one.accept(token) for token in tokens] == texts
    assert one.finish is finish
    assert one.usage == Usage(prompt_tokens=3, output_tokens=len(tokens))


def test_most_tokens_end_it() -> None:
    """The last token that was asked for ends it, with all that was held back."""
    one = sequence(max_tokens=3, stop=("STOP",))
    assert [one.accept(token) for token in (0, 6, 3)] == ["a", "", "STO\N{REPLACEMENT CHARACTER}"]
    assert one.finish is FinishReason.MAX_TOKENS


def test_stop_string_in_what_was_held_back() -> None:
    """A stop string that only the end completes is not shown either."""
    one = sequence(max_tokens=2, stop=("a\N{REPLACEMENT CHARACTER}",))
    assert [one.accept(token) for token in (0, 3)] == ["", ""]
    assert one.finish is FinishReason.STOP_STRING


def test_end_token_goes_on_where_none_is_set() -> None:
    """Without end tokens nothing but the number of tokens ends it."""
    one = sequence(ends=frozenset())
    one.accept(END)
    assert one.finish is None


def test_kv_of_the_last_token_is_not_needed() -> None:
    """A prompt of 3 and 5 more tokens need the KV of 7: the last one is never computed."""
    assert sequence(max_tokens=5).most_tokens == 7
