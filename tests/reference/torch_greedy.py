"""Greedy tokens of the torch backend, beside those that are expected."""

from pathlib import Path

from inferd.plugin import LoadedModel, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC

NEAR_TIE = 1e-4  # of a logit: arithmetic in another order may decide such a step otherwise


def load(path: Path, **settings: str) -> LoadedModel:
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=4 << 30)
    return TorchBackend().load(request, lambda _: None)


def generate(session: TokenSession, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy output of all prompts: each is read alone, then all go on in one step."""
    per = -(-max(len(prompt) + count for prompt in prompts) // session.limits.block_tokens)
    blocks = [range(n * per, (n + 1) * per) for n in range(len(prompts))]
    outputs = []
    for prompt, own in zip(prompts, blocks, strict=True):
        (logits,) = compute(session, Part(token_ids=prompt, blocks=own, wanted=[len(prompt) - 1]))
        outputs.append([int(logits[0].argmax())])
    while len(outputs[0]) < count:
        parts = [
            Part(token_ids=output[-1:], begin=len(prompt) + len(output) - 1, blocks=own)
            for prompt, output, own in zip(prompts, outputs, blocks, strict=True)
        ]
        for output, logits in zip(outputs, compute(session, *parts), strict=True):
            output.append(int(logits[0].argmax()))
    return outputs


def count_near_ties(outputs: list[list[int]], expected: list[list[int]], margins: list[list[float]]) -> int:
    """How many outputs part at a near-tie; parting anywhere else is an error."""
    near_ties = 0
    for output, wanted, margin in zip(outputs, expected, margins, strict=True):
        step = next((n for n, (a, b) in enumerate(zip(output, wanted, strict=True)) if a != b), None)
        if step is not None:
            assert margin[step] < NEAR_TIE, f"differs at step {step} with a margin of {margin[step]}"
            near_ties += 1
    print(f"{len(outputs)} prompts x {len(outputs[0])} tokens, {near_ties} ended by a near-tie")  # noqa: T201 - shown by pytest -rP
    return near_ties
