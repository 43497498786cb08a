"""The pool of KV blocks: who holds which, by reference counts. The memory itself belongs to the session."""

from collections.abc import Iterable


class BlockPool:
    """Blocks are promised first and taken later, so that a sequence that was admitted always gets what it needs.

    One writer: the batcher.

    Args:
        blocks: Blocks in the pool.
        block_tokens: Tokens in a block.
    """

    def __init__(self, *, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._references = [0] * blocks
        self._unused = list(range(blocks - 1, -1, -1))  # a stack: the block that was used last is still in a cache
        self._promised = 0

    @property
    def free(self) -> int:
        """Blocks that are neither held nor promised."""
        return len(self._unused) - self._promised

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_tokens)

    def promise(self, count: int) -> bool:
        """Set `count` blocks aside for `take`; False, and nothing changes, when fewer are free."""
        if count > self.free:
            return False
        self._promised += count
        return True

    def take(self) -> int:
        """Turn one promised block into a held one and return its number."""
        self._promised -= 1
        block = self._unused.pop()
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Hold a held block once more."""
        self._references[block] += 1

    def release(self, blocks: Iterable[int], *, promised: int = 0) -> None:
        """Let go of each of `blocks` once, and of `promised` blocks that were never taken.

        Raises:
            ValueError: A block is not held: a defect of the caller.
        """
        for block in blocks:
            if self._references[block] == 0:
                raise ValueError(f"block {block} is released but not held")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._unused.append(block)
        self._promised -= promised
