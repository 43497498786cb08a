import pytest

from inferd.engine.blocks import BlockPool


def test_promised_blocks_are_not_free() -> None:
    """What is promised to one is refused to another, and taking it changes nothing in that."""
    pool = BlockPool(blocks=4, block_tokens=8)
    assert pool.promise(3)
    assert pool.free == 1
    assert not pool.promise(2)
    assert pool.free == 1
    taken = [pool.take() for _ in range(3)]
    assert len(set(taken)) == 3
    assert pool.free == 1


def test_released_blocks_come_back() -> None:
    """Blocks that were taken, and promises that were not used, are free again after the release."""
    pool = BlockPool(blocks=4, block_tokens=8)
    pool.promise(4)
    held = [pool.take(), pool.take()]
    pool.release(held, promised=2)
    assert pool.free == 4


def test_shared_block_is_free_after_its_last_holder() -> None:
    """A block that two hold comes back when the second lets go of it, not before."""
    pool = BlockPool(blocks=1, block_tokens=8)
    pool.promise(1)
    block = pool.take()
    pool.share(block)
    pool.release([block])
    assert pool.free == 0
    pool.release([block])
    assert pool.free == 1


def test_release_of_what_is_not_held_is_an_error() -> None:
    """A block that is let go of once too often is named."""
    pool = BlockPool(blocks=2, block_tokens=8)
    pool.promise(1)
    block = pool.take()
    pool.release([block])
    with pytest.raises(ValueError, match=f"block {block} is released but not held"):
        pool.release([block])


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_blocks_for_tokens(tokens: int, blocks: int) -> None:
    """A last block may be used in part."""
    assert BlockPool(blocks=1, block_tokens=8).blocks_for(tokens) == blocks
