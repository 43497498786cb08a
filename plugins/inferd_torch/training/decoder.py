"""The loss of a language model: each token of a row by those before it.

Rows of a part are filled up behind their ends to the longest one. What is filled in is never learnt, and no token of a
row sees what comes behind it, so that the loss of a row is the same with and without.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from inferd.plugin import ExportKind, Judgement, TrainError
from inferd_torch.training.objective import pad
from inferd_torch.training.rows import Row
from inferd_torch.training.texts import Example, Texts

_LOGITS: Final = 1 << 24  # that are held at a time, and made again for the gradients
_BENDS: Final = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What a network does to its logits behind its head, by the names of its configuration: these are made as a whole."""
_LOST: Final = -100  # of a target that is none, as `cross_entropy` has it
_MOST_EXPONENT: Final = 700.0


class LanguageModel:
    """A decoder that learns texts.

    Args:
        network: Of transformers, with what is trained wanting gradients.
        texts: Makes examples; None where only the size of its steps is asked for.
        device: Where it is.
        export: Writes what was trained.

    Raises:
        TrainError: What is held of its states is not what its logits are made of.
    """

    def __init__(
        self, network: Any, texts: Texts | None, *, device: torch.device, export: Callable[[Path], ExportKind]
    ) -> None:
        self.network: Any = network
        self._texts, self._device, self.export = texts, device, export
        config = network.config.get_text_config(decoder=True)
        self._whole = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _BENDS)

    def read(self, row: Row, name: str) -> Example:
        """An example of a row.

        Raises:
            TrainError: It is none.
        """
        if self._texts is None:
            raise TrainError("there is no tokenizer")
        return self._texts.read(row, name)

    def weight(self, example: Example) -> int:
        """Its tokens that are learnt."""
        return example.targets

    def tokens(self, example: Example) -> int:
        """That are read."""
        return len(example.ids)

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """The sum of the losses of all tokens that are learnt."""
        ids, targets, places = self._lay_out(examples)
        return self.sum_losses(ids, targets, places)

    def lay_out(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Tokens (rows, n) of examples, and which of rows · (n - 1) are learnt."""
        ids, _, places = self._lay_out(examples)
        return ids, places

    def states(self, ids: Tensor) -> tuple[Any, Tensor]:
        """What makes logits, and of what, for all of rows · n tokens."""
        if self._whole:
            return nn.Identity(), self.network(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        states = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        return self.network.get_output_embeddings(), states

    def _lay_out(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        ids = pad([example.ids for example in examples], 0, self._device)
        wanted = [
            [token if learnt else _LOST for token, learnt in zip(each.ids[1:], each.learnt[1:], strict=True)]
            for each in examples
        ]
        targets = pad(wanted, _LOST, self._device).flatten()
        return ids, targets, torch.nonzero(targets != _LOST).flatten()

    def sum_losses(self, ids: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Of tokens (rows, n): `targets` are what comes next (rows · (n - 1)), `places` those of them that count."""
        ids = ids[:, :-1] if ids.shape[1] > 1 else ids
        if self._whole:
            logits = self.network(input_ids=ids, use_cache=False).logits.flatten(0, 1).float()
            return cross_entropy(logits, targets, ignore_index=_LOST, reduction="sum")
        head, states = self.states(ids)
        states, targets = states.index_select(0, places), targets.index_select(0, places)
        many = max(_LOGITS // head.weight.shape[0], 1)
        parts = [
            checkpoint(_loss_of, head, some, wanted, use_reentrant=False, preserve_rng_state=False)
            for some, wanted in zip(torch.split(states, many), torch.split(targets, many), strict=True)
        ]
        return torch.stack(parts).sum()

    def check(self) -> None:
        """See whether the logits of the head are those of the network.

        Raises:
            TrainError: They are not.
        """
        if self._whole:
            return
        ids = torch.tensor([[0, 1]], device=self._device)
        with torch.no_grad():
            own = self.network(input_ids=ids, use_cache=False).logits
            states = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
            made = self.network.get_output_embeddings()(states)
        if own.shape != made.shape or not torch.allclose(own, made, rtol=1e-3, atol=1e-3):
            kind = self.network.config.model_type
            raise TrainError(
                f"{kind}: its logits are more than its head makes of its states: it cannot be trained here"
            )

    def judge(self, parts: Sequence[Sequence[Example]]) -> Judgement:
        """The loss of rows that are held back, by token, and the perplexity."""
        total, count = 0.0, 0
        for part in parts:
            if weight := sum(map(self.weight, part)):
                total += self.loss(part).item()
                count += weight
        if not count:
            raise TrainError("no row that is held back has a token to learn; raise 'most_tokens'")
        loss = total / count
        return Judgement(loss=loss, figures={"perplexity": math.exp(min(loss, _MOST_EXPONENT)), "tokens": float(count)})


def logits_at_once(config: Any) -> int:
    """Tokens whose logits are held at a time."""
    return max(_LOGITS // int(config.get_text_config(decoder=True).vocab_size), 1)


def _loss_of(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(states).float(), targets, reduction="sum")
