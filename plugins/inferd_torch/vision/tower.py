"""The vectors of pictures and sounds: computed once by the tower and projector of a network, and kept by their keys."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from inferd.plugin.picture_rows import find_reach, find_rows, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from inferd.plugin import TokenBatch
    from inferd.plugin.pictures import Picture
    from inferd.plugin.session import Int64Array
    from inferd_torch.vision.hearing import Qwen2Audio, Voxtral
    from inferd_torch.vision.kinds import Kind


TEXT: Final = frozenset({"language_model", "text_model"})  # modules whose layers are none of the tower's


class Tower:
    """Of one network. One writer: the thread of the steps.

    Args:
        network: With the modules that see.
        kind: Of it.
        kept_tokens: Vectors that are kept, over all pictures; those of one picture at least.

    Attributes:
        computed: Pictures computed so far.
        kept: How often the first vector of a picture was asked for that had been kept.
    """

    def __init__(self, network: Any, kind: Kind | Qwen2Audio | Voxtral, *, kept_tokens: int) -> None:
        self.computed = self.kept = 0
        self._network = network
        self._kind = kind
        self._kept_tokens = kept_tokens
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._held = 0

    def changes(self, batch: TokenBatch) -> bool:
        """Whether anything of a step hangs on pictures."""
        return batch.pictures is not None and (self._kind.rotates or bool(find_rows(batch)))

    def embed(self, batch: TokenBatch, token_ids: Tensor) -> Tensor | None:
        """What goes into the first layer, shape (T, width); None where no token of the step is one of a picture.

        Raises:
            ValueError: A picture gives another number of vectors than its outline said.
        """
        parts = []
        for placed, rows, which in find_rows(batch):
            self.kept += placed.picture.key in self._kept and which[0] == 0
            vectors = self.vectors(placed.picture, batch.advance)
            parts.append((rows, vectors[torch.from_numpy(which).to(token_ids.device)]))
        if not parts:
            return None
        places = torch.from_numpy(np.concatenate([rows for rows, _ in parts])).to(token_ids.device)
        plain = token_ids.clone()
        plain[places] = 0  # there may be no row for the token of pictures
        embedded: Tensor = self._network.get_input_embeddings()(plain)
        embedded[places] = torch.cat([vectors for _, vectors in parts]).to(embedded.dtype)
        return embedded

    def vectors(self, picture: Picture, advance: Callable[[], None]) -> Tensor:
        """Of a picture, on the device.

        Args:
            picture: It.
            advance: Called with each layer of the tower.

        Raises:
            ValueError: As `embed`.
        """
        if (kept := self._kept.get(picture.key)) is not None:
            self._kept.move_to_end(picture.key)
            return kept
        device = self._network.device
        read = picture.values()
        advance()
        values = {name: torch.from_numpy(np.ascontiguousarray(x)).to(device) for name, x in read.items()}
        with _watched(self._network, advance):
            given = self._kind.vectors(self._network, values).contiguous()
        advance()
        self.computed += 1
        if len(given) != picture.outline.tokens:
            raise ValueError(f"a picture gives {len(given)} vectors, and {picture.outline.tokens} were expected")
        self._kept[picture.key] = given
        self._held += len(given)
        while self._held > self._kept_tokens and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._held -= len(gone)
        return given

    def rotate(self, batch: TokenBatch) -> Int64Array | None:
        """Positions in time, rows and columns, shape (3, T); None where they are the tokens' own."""
        return turn(batch) if self._kind.rotates else None

    def reach(self, batch: TokenBatch) -> Int64Array | None:
        """The last position that each token sees, shape (T,); None where that is its own."""
        return find_reach(batch) if self._kind.whole else None


@contextmanager
def _watched(network: Any, advance: Callable[[], None]) -> Iterator[None]:
    """Have each layer of the tower tell when it is computed: a tower may take a minute on a few cores."""
    lists = [
        module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.ModuleList) and TEXT.isdisjoint(name.split("."))
    ]
    hooks = [layer.register_forward_hook(lambda *_: advance()) for layers in lists for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
