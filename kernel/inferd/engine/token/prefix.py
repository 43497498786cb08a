"""The names by which KV blocks are found again: a hash chain over the tokens that led to them."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.plugin.pictures import PlacedPicture
    from inferd.plugin.session import Int32Array

_DIGEST_BYTES = 32


class PrefixChain:
    """The digests of the full blocks of one sequence, each over the digest before it and the block's tokens.

    So a digest names all tokens from the first one on. The chain begins with the digest of a salt: sequences with
    different salts never find each other's blocks, however alike their tokens are. One writer: the batcher.

    Args:
        salt: Whose blocks they are: everything besides the tokens that decides what the KV is and who may know it.
        block_tokens: Tokens in a block.
        lasting: Whether its blocks can be found when the sequence has ended.

    Attributes:
        lasting: See above.
        pictures: Those that stand among the tokens.
    """

    __slots__ = ("_block_tokens", "_digests", "_seen", "lasting", "pictures")

    def __init__(self, *, salt: bytes, block_tokens: int, lasting: bool = True) -> None:
        self.lasting = lasting
        self._block_tokens = block_tokens
        self._digests = [blake2b(salt, digest_size=_DIGEST_BYTES).digest()]
        self.pictures: tuple[PlacedPicture, ...] = ()
        self._seen: dict[int, bytes] = {}  # by block: what of pictures is in it

    @property
    def salt(self) -> bytes:
        """The digest of the salt."""
        return self._digests[0]

    def show(self, pictures: tuple[PlacedPicture, ...]) -> None:
        """Let the names of blocks say of the tokens of pictures which vector of which picture is there.

        Called before any digest is asked for.
        """
        self.pictures = pictures
        for placed in pictures:
            last = -1
            for number, place in enumerate(placed.places.tolist()):
                block = place // self._block_tokens
                if block != last:  # from its first one there the others follow
                    mark = placed.picture.key + number.to_bytes(4, "little") + place.to_bytes(4, "little")
                    self._seen[block] = self._seen.get(block, b"") + mark
                last = block

    def cross(self) -> None:
        """From now on the KV of the same tokens is another one: what was computed before is not found."""
        self._digests = [blake2b(b"beyond" + self._digests[0], digest_size=_DIGEST_BYTES).digest()]

    def digests(self, tokens: Int32Array, count: int) -> list[bytes]:
        """Digests of the first `count` blocks of `tokens`; the tokens of a block never change."""
        size, digests = self._block_tokens, self._digests
        for block in range(len(digests) - 1, count):
            parent, ids = digests[block], tokens[block * size : (block + 1) * size]
            named = parent + ids.astype("<i4").tobytes() + self._seen.get(block, b"")
            digests.append(blake2b(named, digest_size=_DIGEST_BYTES).digest())
        return digests[1 : count + 1]

    def digest(self, tokens: Int32Array, block: int) -> bytes:
        """Digest of one block."""
        self.digests(tokens, block + 1)
        return self._digests[block + 1]
