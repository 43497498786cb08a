import pytest

from inferd.engine.token.blocks import BlockPool


def test_released_blocks_come_back() -> None:
    """Blocks that were taken are different ones, and free again after the release."""
    pool = BlockPool(blocks=4, block_tokens=8)
    held = [pool.take() for _ in range(4)]
    assert len(set(held)) == 4
    assert pool.free == 0
    pool.release(held)
    assert pool.free == 4


def test_shared_block_is_free_after_its_last_holder() -> None:
    """A block that two hold comes back when the second lets go of it, not before."""
    pool = BlockPool(blocks=1, block_tokens=8)
    block = pool.take()
    pool.share([block])
    pool.release([block])
    assert pool.free == 0
    pool.release([block])
    assert pool.free == 1


def test_release_of_what_is_not_held_is_an_error() -> None:
    """A block that is let go of once too often is named."""
    pool = BlockPool(blocks=2, block_tokens=8)
    block = pool.take()
    pool.release([block])
    with pytest.raises(ValueError, match=f"block {block} is released but not held"):
        pool.release([block])


def test_published_blocks_are_found_until_their_memory_is_needed() -> None:
    """Blocks that nobody holds are found, as far as none is missing; the longest so goes first."""
    pool = BlockPool(blocks=4, block_tokens=8)
    early, late = [pool.take(), pool.take()], [pool.take()]
    for block, digest in zip([*early, *late], (b"1", b"2", b"3"), strict=True):
        pool.publish(block, digest)
    pool.release(early)
    pool.release(late)
    assert pool.free == 4
    assert pool.find([b"1", b"2", b"x", b"3"]) == early
    pool.take()
    assert pool.find([b"1", b"2"]) == early  # there was a block that nobody could find
    assert pool.take() == early[1]
    assert pool.find([b"1", b"2"]) == early[:1]  # the end of a prefix goes before its beginning
    assert pool.find([b"3"]) == late


def test_found_blocks_are_held_by_both() -> None:
    """A found block that is held is given to nobody else, whether it was held before or not."""
    pool = BlockPool(blocks=2, block_tokens=8)
    one, two = pool.take(), pool.take()
    pool.publish(one, b"1")
    pool.publish(two, b"2")
    pool.release([two])
    found = pool.find([b"1", b"2"])
    assert pool.idle(found) == 1
    pool.share(found)
    assert pool.free == 0
    pool.release([one])
    assert pool.free == 0
    pool.release(found)
    assert (pool.free, pool.cached) == (2, 2)


def test_first_block_under_a_digest_stays() -> None:
    """Of two blocks with the same contents the first is found; the other one is an ordinary block."""
    pool = BlockPool(blocks=2, block_tokens=8)
    one, two = pool.take(), pool.take()
    pool.publish(one, b"1")
    pool.publish(two, b"1")
    pool.release([one, two])
    assert pool.find([b"1"]) == [one]
    assert pool.cached == 1


@pytest.mark.parametrize("held", [True, False])
def test_withdrawn_block_is_found_no_more(*, held: bool) -> None:
    """A block that is withdrawn is not found, is not lost, and can be published again."""
    pool = BlockPool(blocks=1, block_tokens=8)
    block = pool.take()
    pool.publish(block, b"1")
    if not held:
        pool.release([block])
    pool.withdraw([block])
    pool.withdraw([block])
    assert pool.find([b"1"]) == []
    if held:
        pool.release([block])
    assert (pool.free, pool.cached) == (1, 0)
    pool.publish(pool.take(), b"1")
    assert pool.find([b"1"]) == [block]


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_blocks_for_tokens(tokens: int, blocks: int) -> None:
    """A last block may be used in part."""
    assert BlockPool(blocks=1, block_tokens=8).blocks_for(tokens) == blocks
