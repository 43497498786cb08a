"""How a layer scores keys: what attention is told besides queries, keys and values."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Of one layer.

    Attributes:
        scaling: Of the product of a query and a key.
        window: A token sees so many keys, itself among them; None for all up to itself.
        softcap: Scaled products are bent into its range, `softcap * tanh(product / softcap)` (Gemma 2,
            arXiv:2408.00118); None to leave them.
        sinks: A score for each head, shape (H,), of a key that no value belongs to (gpt-oss, arXiv:2309.17453); None
            for none.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether scores are scaled products and nothing else."""
        return self.softcap is None and self.sinks is None

    def of(self, products: Tensor) -> Tensor:
        """The scores of products that are float32 and nobody else's: they become the scores."""
        products.mul_(self.scaling)
        return products if self.softcap is None else products.div_(self.softcap).tanh_().mul_(self.softcap)
