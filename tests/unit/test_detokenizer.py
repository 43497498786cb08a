import random

import pytest

from inferd.engine.text.detokenizer import Detokenizer, Piece


def push_all(pieces: list[Piece]) -> list[str]:
    """What is shown after each piece, and at the end."""
    detokenizer = Detokenizer(pieces)
    return [*(detokenizer.push(number) for number in range(len(pieces))), detokenizer.finish()]


def test_characters_are_never_cut() -> None:
    """An emoji of four bytes in four tokens is shown when its last byte came."""
    assert push_all([b"\xf0", b"\x9f", b"\x98", b"\x80", "!"]) == ["", "", "", "😀", "!", ""]


def test_character_across_whole_text() -> None:
    """A token that ends one character and begins the next shows the first one only."""
    assert push_all([b"a\xe6\x97", b"\xa5\xe6", b"\x9c\xac."]) == ["a", "日", "本.", ""]


def test_joined_emoji_are_shown_by_code_points() -> None:
    """A family joined by ZWJ is shown code point by code point, none of them cut."""
    family = "👨‍👩‍👧"
    shown = push_all([bytes([byte]) for byte in family.encode()])
    assert [text for text in shown if text] == list(family)


def test_incomplete_character_at_the_end() -> None:
    """A character that is never completed becomes U+FFFD at the end."""
    assert push_all(["ok", b"\xe6\x97"]) == ["ok", "", "\N{REPLACEMENT CHARACTER}"]


def test_text_after_an_incomplete_character() -> None:
    """A character that is broken off by other text becomes U+FFFD before that text."""
    assert push_all([b"\xe6\x97", "ok"]) == ["", "\N{REPLACEMENT CHARACTER}ok", ""]


@pytest.mark.parametrize("seed", range(50))
def test_any_bytes_equal_the_decoding_of_all(seed: int) -> None:
    """Whatever bytes the tokens hold, the texts together are the decoding of all bytes together."""
    generator = random.Random(seed)
    alphabet = [*"aé日😀".encode(), 0xC0, 0xE0, 0xED, 0xF4, 0xFF, 0x80, 0xA0, 0x9F]
    pieces: list[Piece] = []
    for _ in range(60):
        data = bytes(generator.choices(alphabet, k=generator.randint(0, 5)))
        try:
            pieces.append(data.decode())
        except UnicodeDecodeError:
            pieces.append(data)
    whole = b"".join(p.encode() if isinstance(p, str) else p for p in pieces)
    assert "".join(push_all(pieces)) == whole.decode("utf-8", "replace")
