"""The workload that engines are compared by: random prompts of token ids, greedy, the end-of-text token ignored."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """`sequences` at once, each of `prompt_tokens`, each giving `output_tokens`."""

    name: str
    sequences: int
    prompt_tokens: int
    output_tokens: int

    @property
    def figure(self) -> tuple[int, str]:
        """How many tokens are counted, and what they are: of the prompt where there is next to no output."""
        if self.output_tokens == 1:
            return self.sequences * self.prompt_tokens, "prompt tok/s"
        return self.sequences * self.output_tokens, "output tok/s"

    def prompts(self) -> list[list[int]]:
        """Token ids 1000 to 39999, no special ones of the SmolLM2 vocabulary; the same in each run."""
        rng = random.Random(f"0-{self.sequences}-{self.prompt_tokens}")
        return [[rng.randrange(1000, 40000) for _ in range(self.prompt_tokens)] for _ in range(self.sequences)]


WARM = Case("warm", 2, 16, 16)
CASES = (
    Case("b1", 1, 128, 128),
    Case("b8", 8, 128, 128),
    Case("b32", 32, 128, 128),
    Case("b64", 64, 128, 128),
    Case("prefill", 1, 1024, 1),
)
