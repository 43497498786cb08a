"""The pool of KV blocks: who holds which, and what is found in them. The memory itself belongs to the session."""

from collections.abc import Iterable


class BlockPool:
    """Blocks are held by reference counts. Those that nobody holds are free; some of them can still be found.

    A full block may be published under the digest of all tokens up to its end. When its last holder lets go of it, it
    stays findable until its memory is needed: the block that has waited longest goes first.

    One writer: the batcher.

    Args:
        blocks: Blocks in the pool.
        block_tokens: Tokens in a block.
    """

    def __init__(self, *, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._references = [0] * blocks
        self._unused = list(range(blocks - 1, -1, -1))  # a stack: the block that was used last is still in a cache
        self._idle: dict[int, None] = {}  # published and held by nobody, the longest so first
        self._digests: dict[int, bytes] = {}  # of published blocks
        self._found: dict[bytes, int] = {}  # published blocks by digest

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._unused) + len(self._idle)

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return len(self._references) - self.free

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and that can still be found."""
        return len(self._idle)

    @property
    def unused(self) -> int:
        """Blocks that nobody holds and in which nothing can be found."""
        return len(self._unused)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_tokens)

    def take(self) -> int:
        """Hold a free block and return its number. What was found in it is found no more.

        Raises:
            IndexError: None is free: a defect of the caller.
        """
        if not self._unused and self._idle:
            self.withdraw([next(iter(self._idle))])
        block = self._unused.pop()
        self._references[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Hold each of `blocks`, which are held or can be found, once more."""
        for block in blocks:
            self._references[block] += 1
            self._idle.pop(block, None)

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of each of `blocks` once, of the later ones first: they are of use only with those before them.

        Raises:
            ValueError: A block is not held: a defect of the caller.
        """
        for block in reversed(list(blocks)):
            if self._references[block] == 0:
                raise ValueError(f"block {block} is released but not held")
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._digests:
                    self._idle[block] = None
                else:
                    self._unused.append(block)

    def publish(self, block: int, digest: bytes) -> None:
        """Let a full block, which is held, be found by its digest; the first one under a digest stays."""
        if block not in self._digests and self._found.setdefault(digest, block) == block:
            self._digests[block] = digest

    def withdraw(self, blocks: Iterable[int]) -> None:
        """Let each of `blocks` be found no more."""
        for block in blocks:
            digest = self._digests.pop(block, None)
            if digest is None:
                continue
            del self._found[digest]
            if block in self._idle:
                del self._idle[block]
                self._unused.append(block)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks under the first of `digests`, as far as there are some without a gap."""
        blocks = []
        for digest in digests:
            block = self._found.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def findable(self) -> list[tuple[int, bytes]]:
        """The blocks that nobody holds and that can be found, with their digests, those that would go last first."""
        return [(block, self._digests[block]) for block in reversed(self._idle)]

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody holds."""
        return sum(self._references[block] == 0 for block in blocks)
