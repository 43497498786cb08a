"""The workload that engines are compared by: random prompts of token ids, greedy, the end-of-text token ignored."""

import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Case:
    """`sequences` at once, each of `prompt_tokens`, each giving `output_tokens`.

    Attributes:
        decodes: What prompts take is measured apart, with others as long, and left out: the figure is of what
            comes behind the first tokens.
        draw: Which random prompts.
    """

    name: str
    sequences: int
    prompt_tokens: int
    output_tokens: int
    decodes: bool = False
    draw: int = 0

    @property
    def reading(self) -> "Case":
        """What is left out: as many prompts, of which no prefix cache has anything."""
        return replace(self, output_tokens=1, decodes=False, draw=self.draw + 1)

    @property
    def figure(self) -> tuple[int, str]:
        """How many tokens are counted, and what they are: of the prompt where there is next to no output."""
        if self.output_tokens == 1:
            return self.sequences * self.prompt_tokens, "prompt tok/s"
        return self.sequences * (self.output_tokens - self.decodes), "output tok/s"

    def prompts(self) -> list[list[int]]:
        """Token ids 1000 to 39999, no special ones of the SmolLM2 vocabulary; the same in each run."""
        rng = random.Random(f"{self.draw}-{self.sequences}-{self.prompt_tokens}")
        return [[rng.randrange(1000, 40000) for _ in range(self.prompt_tokens)] for _ in range(self.sequences)]


WARM = Case("warm", 2, 16, 16)
CASES = (
    Case("b1", 1, 128, 128),
    Case("b8", 8, 128, 128),
    Case("b32", 32, 128, 128),
    Case("b64", 64, 128, 128),
    Case("prefill", 1, 1024, 1),
)
LONG = (Case("decode8k", 8, 8000, 190, decodes=True), Case("prefill8k", 1, 8000, 1))
"""Long contexts; `make peers CASES=decode8k,prefill8k` runs them."""


def room(names: list[str]) -> int:
    """Tokens that the cases of these names have in memory at once, at most."""
    chosen = [case for case in (*CASES, *LONG) if case.name in names]
    return max(case.sequences * (case.prompt_tokens + case.output_tokens) for case in (WARM, *chosen))
