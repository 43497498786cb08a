"""A small network that learns to guess what a large one writes: the loss is how far its chances are from the other's.

G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; Y. Zhou et al., DistillSpec,
2023, arXiv:2310.08461. It has some of the large one's layers, evenly spread, and begins with their weights where it is
as wide; a narrower one begins with weights of a seed.
"""

import math
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax
from torch.utils.checkpoint import checkpoint

from inferd.plugin import ExportKind, Judgement, TrainError, TrainingRecipe
from inferd_torch.training.decoder import LanguageModel, logits_at_once
from inferd_torch.training.texts import Example, Texts

SHARE: Final = 8  # of the layers there is one, where a recipe does not say how many
GUESS: Final = 4  # tokens of a guess, for what is told of it
_LAYER: Final = re.compile(r"\.(layers|h|blocks)\.(\d+)\.")
_WHOLE: Final = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.\d+")
_GRAIN: Final = 32  # widths of the networks within layers are multiples of it


class Pair(nn.Module):
    """A network that teaches, and one that learns: of these parameters only its own are trained.

    Args:
        teacher: Stays as it is.
        student: Learns.
    """

    def __init__(self, teacher: Any, student: Any) -> None:
        super().__init__()
        self.teacher, self.student = teacher.requires_grad_(False).eval(), student.requires_grad_(True)

    @property
    def config(self) -> Any:
        """Of the one that learns."""
        return self.student.config

    def train(self, mode: bool = True) -> "Pair":  # noqa: FBT001, FBT002 - as `nn.Module` has it
        """As of any network, but the one that teaches drops nothing."""
        super().train(mode)
        self.teacher.eval()
        return self

    def gradient_checkpointing_enable(self, how: dict[str, bool]) -> None:
        """Have the layers of the one that learns computed again for the gradients."""
        self.student.gradient_checkpointing_enable(how)


class Student(LanguageModel):
    """The pair, and the loss of what the one that learns gives to each token.

    Args:
        pair: Of networks.
        texts: Makes examples; None where only the size of its steps is asked for.
        device: Where it is.
        export: Writes what was trained.
    """

    def __init__(
        self, pair: Pair, texts: Texts | None, *, device: torch.device, export: Callable[[Path], ExportKind]
    ) -> None:
        super().__init__(pair, texts, device=device, export=export)
        self._parts = [LanguageModel(each, None, device=device, export=export) for each in (pair.teacher, pair.student)]

    def check(self) -> None:
        """See whether the logits of both heads are those of their networks.

        Raises:
            TrainError: They are not.
        """
        self.network.eval()
        for each in self._parts:
            each.check()

    def sum_losses(self, ids: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """The sum of the divergences of the chances of all tokens that count, from those of the one that teaches."""
        del targets
        parts = [
            checkpoint(_diverge, *some, use_reentrant=False, preserve_rng_state=False)
            for some in self._split(ids, places)
        ]
        return torch.stack(parts).sum()

    def judge(self, parts: Sequence[Sequence[Example]]) -> Judgement:
        """The divergence of rows that are held back, by token; how often both find the same token likeliest.

        Figures: `acceptance`, that share: of guesses of one token so many are right where the model takes the likeliest
        one; `tokens_a_step`, how many a step gives then with guesses of four tokens; `tokens`.
        """
        total, same, count = 0.0, 0, 0
        for part in parts:
            ids, places = self.lay_out(part)
            for some in self._split(ids, places):
                total += _diverge(*some).item()
                teacher, student = (head(states).argmax(-1) for head, states in (some[:2], some[2:]))
                same += int((teacher == student).sum().item())
            count += len(places)
        if not count:
            raise TrainError("no row that is held back has a token to learn; raise 'most_tokens'")
        rate = same / count
        steps = sum(rate**right for right in range(GUESS + 1))
        figures = {"acceptance": rate, "tokens_a_step": steps, "tokens": float(count)}
        return Judgement(loss=total / count, figures=figures)

    def _split(self, ids: Tensor, places: Tensor) -> list[tuple[Any, Tensor, Any, Tensor]]:
        """Of each part of the tokens that count: head and states of the one that teaches, and of the other."""
        ids = ids[:, :-1] if ids.shape[1] > 1 else ids
        many = logits_at_once(self.network.config)
        with torch.no_grad():
            head, states = self._parts[0].states(ids)
        other, learnt = self._parts[1].states(ids)
        split = [torch.split(each.index_select(0, places), many) for each in (states, learnt)]
        return [(head, theirs, other, mine) for theirs, mine in zip(*split, strict=True)]


def _diverge(head: Any, states: Tensor, other: Any, learnt: Tensor) -> Tensor:
    """The sum of the Kullback-Leibler divergences of logits."""
    with torch.no_grad():
        chances = log_softmax(head(states).float(), -1)
    return (chances.exp() * (chances - log_softmax(other(learnt).float(), -1))).sum()


def choose_layers(config: Any, recipe: TrainingRecipe) -> list[int]:
    """Which layers the one that learns has, rising.

    Raises:
        TrainError: There are not so many.
    """
    count = config.get_text_config(decoder=True).num_hidden_layers
    wanted = recipe.layers or max(1, count // SHARE)
    if wanted > count:
        raise TrainError(f"'layers' is {recipe.layers}, but the model has {count}")
    return [0] if wanted == 1 else [round(at * (count - 1) / (wanted - 1)) for at in range(wanted)]


def check_ranks(config: Any, recipe: TrainingRecipe) -> None:
    """See whether all workers of a training make the same network: only the one that leads sees which layers it needs.

    Raises:
        TrainError: They do not, since layers of the model are of several kinds.
    """
    told = _by_layer(config).values()
    if recipe.keep == "needed" and recipe.ranks > 1 and any(each != value[0] for value in told for each in value):
        raise TrainError(
            f"'keep' is 'needed' and 'ranks' is {recipe.ranks}, and layers of {config.model_type} are not alike: only"
            " the worker that leads sees which are needed; set 'ranks' to 1 or 'keep' to 'even'"
        )


def _by_layer(config: Any) -> dict[str, list[Any]]:
    """What a configuration says of each layer."""
    count = config.num_hidden_layers
    return {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == count}


def find_needed(teacher: Any, texts: Sequence[Sequence[int]], many: int, device: torch.device) -> list[int]:
    """So many layers, rising, that change most of what passes through them: X. Men et al., ShortGPT, arXiv:2403.03853.

    Args:
        teacher: Whose layers they are.
        texts: Tokens by which that is seen.
        many: Layers.
        device: Of the network.
    """
    layers = [each for name, each in teacher.named_modules() if _WHOLE.fullmatch(name)]
    changes = [0.0] * len(layers)

    def look(at: int) -> Callable[..., None]:
        def see(_: Any, args: Any, given: Any, output: Any) -> None:
            before = args[0] if args else given["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            changes[at] += (1 - cosine_similarity(before.float(), after.float(), dim=-1)).sum().item()

        return see

    hooks = [layer.register_forward_hook(look(at), with_kwargs=True) for at, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            for ids in texts:
                teacher(input_ids=torch.tensor([ids], device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    order = sorted(range(len(layers)), key=lambda at: (-changes[at], at))
    return sorted(order[:many])


def shrink(config: Any, recipe: TrainingRecipe, layers: Sequence[int] | None = None) -> Any:
    """The configuration of the one that learns, of these layers; None for those that are evenly spread.

    Raises:
        TrainError: The recipe says more layers or a larger width than the model has.
    """
    made: Any = deepcopy(config)
    layers = choose_layers(config, recipe) if layers is None else layers
    for name, value in _by_layer(config).items():
        setattr(made, name, [value[at] for at in layers])
    made.num_hidden_layers = len(layers)
    if recipe.width in {0, config.hidden_size}:
        return made
    if recipe.width > config.hidden_size:
        raise TrainError(f"'width' is {recipe.width}, but the model has {config.hidden_size}: lower it")
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if recipe.width % size:
        raise TrainError(f"'width' is {recipe.width}; it must be a multiple of {size}, what a head of the model has")
    made.hidden_size, made.num_attention_heads = recipe.width, recipe.width // size
    made.num_key_value_heads = math.gcd(made.num_attention_heads, getattr(config, "num_key_value_heads", None) or heads)
    inner = config.intermediate_size * recipe.width // config.hidden_size // _GRAIN * _GRAIN
    made.intermediate_size = max(inner, _GRAIN)
    return made


def begin(student: Any, teacher: Any, layers: Sequence[int]) -> None:
    """Give the one that learns the weights of the other's layers, where they have the same shape."""
    known = teacher.state_dict()
    with torch.no_grad():
        for name, weight in student.state_dict().items():
            found = known.get(_LAYER.sub(lambda match: f".{match[1]}.{layers[int(match[2])]}.", name))
            if found is not None and found.shape == weight.shape:
                weight.copy_(found)
