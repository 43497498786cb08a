"""Reads how layers rotate, from the keys of a file."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from inferd_cpu.keys import MAX_WIDTH, Keys
from inferd_cpu.rope import Rope, Scaling, yarn_magnitude
from inferd_cpu.shapes import LayerShape

_SCALINGS: Final[tuple[Scaling, ...]] = ("none", "linear", "yarn", "longrope")
_LOCAL_BASE: Final = 10000.0  # of layers with a window, where they rotate in a way of their own


class RopeKeys(Keys):
    """The rotations of an architecture."""

    def read_ropes(self, layers: Sequence[LayerShape]) -> tuple[Rope, ...]:
        """The rotation of layers that see all, and where it differs that of layers with a window."""
        key_width = max((layer.key_width for layer in layers if layer.rope == 0), default=layers[0].key_width)
        rotated_of = key_width if not self.family.latent else MAX_WIDTH
        width = self.size("rope.dimension_count", key_width)
        if width > rotated_of or width % 2:
            raise self.metadata.error(
                self.key("rope.dimension_count"), f"is {width}; it must be even and at most {rotated_of}"
            )
        sections = self._read_sections(width // 2) if self.family.sections else ()
        base = self.metadata.positive(self.key("rope.freq_base"), 10000.0)
        rope = replace(self._read_scaling(width, base), sections=sections)
        local_width = max((layer.key_width for layer in layers if layer.rope == 1), default=0)
        if not local_width:
            return (rope,)
        local_default = base if self.name.startswith("olmo") else _LOCAL_BASE
        local = self.metadata.positive(self.key("rope.freq_base_swa"), local_default)
        rotated = self.size("rope.dimension_count_swa", min(width, local_width))
        if rotated > local_width or rotated % 2:
            raise self.metadata.error(
                self.key("rope.dimension_count_swa"), f"is {rotated}; it must be even and at most {local_width}"
            )
        return (rope, Rope(width=rotated, base=local, divided=False))

    def _read_sections(self, pairs: int) -> tuple[int, ...]:
        """In a text all sections of the pairs have one position; what pictures add to layers is not asked for."""
        self.size("n_deepstack_layers", 0, minimum=0)
        name = self.key("rope.dimension_sections")
        if name not in self.metadata:
            return ()
        sections = tuple(self.metadata.integers(name))
        if sum(sections) != pairs or min(sections) < 0:
            raise self.metadata.error(name, f"is {list(sections)}, which does not divide {pairs} pairs")
        return sections

    def _read_scaling(self, width: int, base: float) -> Rope:
        key = self.key("rope.scaling.type")
        kind = self.metadata.text(key, "linear")
        if kind not in _SCALINGS:
            supported = ", ".join(map(repr, _SCALINGS))
            raise self.metadata.error(key, f"is {kind!r}, which is not supported; supported are {supported}")
        older = self.metadata.positive(self.key("rope.scale_linear"), 1.0)
        factor = self.metadata.positive(self.key("rope.scaling.factor"), older)
        magnitude = self.metadata.positive(self.key("rope.scaling.attn_factor"), 1.0)
        if kind in ("none", "linear"):
            return Rope(
                width=width, base=base, scaling=kind, factor=factor if kind == "linear" else 1.0, magnitude=magnitude
            )
        if kind == "longrope":
            return Rope(width=width, base=base, scaling="longrope", magnitude=magnitude)
        if base <= 1:
            raise self.metadata.error(self.key("rope.freq_base"), f"is {base:g}; of yarn it must be above 1")
        original = self.size("rope.scaling.original_context_length", maximum=2**31 - 1)
        for part in ("ext", "attn"):
            name = self.key(f"rope.scaling.yarn_{part}_factor")
            if (share := self.metadata.positive(name, 1.0)) != 1.0:
                raise self.metadata.error(name, f"is {share:g}, which is not supported; supported is 1")
        if not self.family.latent:
            multiplier = self.number("rope.scaling.yarn_log_multiplier")
            magnitude *= yarn_magnitude(factor) / (yarn_magnitude(factor, multiplier) if multiplier else 1.0)
        return Rope(
            width=width,
            base=base,
            scaling="yarn",
            factor=factor,
            original_tokens=original,
            magnitude=magnitude,
            beta_fast=self.metadata.positive(self.key("rope.scaling.yarn_beta_fast"), 32.0),
            beta_slow=self.metadata.positive(self.key("rope.scaling.yarn_beta_slow"), 1.0),
            truncates=self.family.yarn_truncates,
        )
