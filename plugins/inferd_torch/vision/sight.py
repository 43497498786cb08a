"""Whether a model sees or hears, and what that takes: read from its folder before any of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from inferd.plugin import LoadError
from inferd_torch.plugin import HEARING_TYPES, SEEING_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.plugin.pictures import Outline
    from inferd.plugin.session import Float32Array, UInt8Array
    from inferd_torch.artifact import Artifact
    from inferd_torch.vision.hearing import Qwen2Audio, Voxtral
    from inferd_torch.vision.kinds import Kind

FILES: Final = ("preprocessor_config.json", "processor_config.json")
WIDTHS: Final = 8  # numbers of its width that a patch takes at a time, beside its inner layer: an estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a model does with pictures; a `PictureReader`.

    Attributes:
        kind: Of the model.
        most_tokens: Of one picture.
        kept_tokens: Vectors that are kept.
    """

    kind: Kind
    most_tokens: int
    kept_tokens: int

    @property
    def placeholder(self) -> str:
        """See `PictureReader`."""
        return self.kind.placeholder

    @property
    def token_id(self) -> int:
        """See `PictureReader`."""
        return self.kind.token_id

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        outline = self.kind.outline(high, wide)
        if outline.tokens > self.most_tokens:
            raise ValueError(
                f"has {wide} x {high} pixels, {outline.tokens} tokens of this model, and its setting 'picture_tokens'"
                f" allows {self.most_tokens}: send a smaller one, or raise the setting"
            )
        return outline

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """See `PictureReader`."""
        return self.kind.read(pixels)

    def count_bytes(self, config: Any, *, number_bytes: int) -> int:
        """What the tower takes for the largest picture, and the vectors that are kept."""
        vision, width = config.vision_config, int(config.get_text_config(decoder=True).hidden_size)
        side = int(getattr(config, "scale_factor", 0) or getattr(vision, "spatial_merge_size", 0))
        each = side * side or int((vision.image_size // vision.patch_size) ** 2 // config.mm_tokens_per_image)
        patch = int(WIDTHS * vision.hidden_size + 2 * vision.intermediate_size)
        return number_bytes * (self.most_tokens * each * patch + (self.kept_tokens + self.most_tokens) * width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What a model does with sounds; a `SoundReader`.

    Attributes:
        kind: Of the model.
        most_tokens: Of one sound.
        kept_tokens: Vectors that are kept.
    """

    kind: Qwen2Audio | Voxtral
    most_tokens: int
    kept_tokens: int

    @property
    def placeholder(self) -> str:
        """See `SoundReader`."""
        return self.kind.placeholder

    @property
    def token_id(self) -> int:
        """See `SoundReader`."""
        return self.kind.token_id

    @property
    def rate(self) -> int:
        """See `SoundReader`."""
        return self.kind.rate

    def hear(self, samples: int) -> Outline:
        """See `SoundReader`."""
        outline = self.kind.hear(samples)
        if outline.tokens > self.most_tokens:
            raise ValueError(
                f"lasts {samples / self.rate:.1f} s, {outline.tokens} tokens of this model, and its setting"
                f" 'picture_tokens' allows {self.most_tokens}: send parts of it, or raise the setting"
            )
        return outline

    def read(self, sound: Float32Array) -> Mapping[str, Any]:
        """See `SoundReader`."""
        return self.kind.read(sound)

    def count_bytes(self, config: Any, *, number_bytes: int) -> int:
        """What the tower takes for a window, attention included, and the vectors that are kept."""
        audio, width = config.audio_config, int(config.get_text_config(decoder=True).hidden_size)
        hidden = int(getattr(audio, "d_model", 0) or audio.hidden_size)
        inner = int(getattr(audio, "encoder_ffn_dim", 0) or audio.intermediate_size)
        frames = 2 * int(audio.max_source_positions)
        return number_bytes * (frames * (8 * hidden + 2 * inner) + (self.kept_tokens + self.most_tokens) * width)


def look(artifact: Artifact, config: Any, settings: Mapping[str, Any], *, ranks: int) -> Sight | Hearing | str:
    """What a model does with pictures or sounds; where it takes none, why.

    Raises:
        LoadError: The file that says how they are prepared is wrong.
    """
    hears = config.model_type in HEARING_TYPES
    if not hears and config.model_type not in SEEING_TYPES:
        return ""
    if not artifact.path.is_dir() or not any((artifact.path / name).is_file() for name in FILES):
        return f"it has no {' or '.join(FILES)}, which says how its {'sounds' if hears else 'pictures'} are prepared"
    if ranks > 1:
        return f"it is computed by {ranks} ranks, which take none"
    if hears:
        return _listen(artifact, config, settings)
    if find_spec("PIL") is None:
        return "Pillow, which reads pictures, is not installed: pip install 'inferd[files]'"
    from inferd_torch.vision.kinds import KINDS  # noqa: PLC0415 - it imports Pillow

    kind, most = KINDS[config.model_type], int(settings["picture_tokens"])
    try:
        seen = kind.open(artifact.path, config)
        seen.outline(1, 1)
    except Exception as error:  # the edge to a library that raises what it likes
        lines = str(error).strip().splitlines() or [""]
        raise LoadError(
            f"{artifact.path}: what prepares its pictures cannot be read: {type(error).__name__}: {lines[0]}"
        ) from error
    return Sight(kind=seen, most_tokens=most, kept_tokens=int(settings["picture_cache_tokens"]))


def _listen(artifact: Artifact, config: Any, settings: Mapping[str, Any]) -> Hearing:
    from inferd_torch.vision.hearing import HEARING  # noqa: PLC0415 - it imports what prepares sounds

    try:
        heard = HEARING[config.model_type].open(artifact.path, config)
    except Exception as error:  # the edge to a library that raises what it likes
        lines = str(error).strip().splitlines() or [""]
        raise LoadError(
            f"{artifact.path}: what prepares its sounds cannot be read: {type(error).__name__}: {lines[0]}"
        ) from error
    most, kept = int(settings["picture_tokens"]), int(settings["picture_cache_tokens"])
    return Hearing(kind=heard, most_tokens=most, kept_tokens=kept)
