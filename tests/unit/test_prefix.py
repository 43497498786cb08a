import numpy as np

from inferd.engine.token.prefix import PrefixChain

TOKENS = np.arange(12, dtype=np.int32)


def digests(tokens: list[int], *, salt: bytes = b"t") -> list[bytes]:
    return PrefixChain(salt=salt, block_tokens=4).digests(np.array(tokens, np.int32), len(tokens) // 4)


def test_digest_names_all_tokens_before() -> None:
    """Two sequences have equal digests up to the block with the first token that differs, and none behind it."""
    one = digests([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    two = digests([0, 1, 2, 3, 4, 5, 6, 9, 8, 9, 10, 11])
    assert len(set(one)) == 3
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, False, False]


def test_salt_divides() -> None:
    """With another salt no digest is equal."""
    assert not set(digests([1] * 12, salt=b"a")) & set(digests([1] * 12, salt=b"b"))


def test_equal_blocks_in_other_places() -> None:
    """The same tokens further on in a sequence have another digest."""
    assert len(set(digests([7] * 12))) == 3


def test_chain_grows_with_the_sequence() -> None:
    """Digests that are asked for one after the other are those that are asked for at once."""
    chain = PrefixChain(salt=b"t", block_tokens=4)
    one_by_one = [chain.digest(TOKENS, block) for block in range(3)]
    assert one_by_one == chain.digests(TOKENS, 3) == digests(TOKENS.tolist())
    assert chain.digests(TOKENS, 1) == one_by_one[:1]
