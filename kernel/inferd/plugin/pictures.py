"""Pictures and sounds in the prompts of language models: what a backend makes of them, and what a step is told of them.

What is said of pictures holds for sounds, too, where nothing else is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # the kernel process reads this module and must not load numpy
    from collections.abc import Callable, Mapping

    from inferd.plugin.session import Float32Array, Int32Array, UInt8Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What of a picture follows from its size alone, or of a sound from its length.

    Attributes:
        text: What stands in a prompt where it is, instead of `PictureReader.placeholder`: control tokens by name.
        tokens: How many of the tokens of that text are `PictureReader.token_id`: a vector of the picture goes to each.
        pixels: How many are computed with, of a sound samples; for the memory that reading it takes.
        grid: Rows and columns of its vectors, where their positions go by them; else empty.
    """

    text: str
    tokens: int
    pixels: int
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        key: Equal for the same file of the same tenant, and for nothing else: what is computed of it may be kept by it.
        outline: Of it.
        values: Gives what its vectors are computed from, as `PictureReader.read` made it; reads it again where that is
            not kept. Called from the thread of the steps.
    """

    key: bytes
    outline: Outline
    values: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedPicture:
    """A picture in a sequence.

    Attributes:
        picture: It.
        places: Positions of its tokens, ascending, shape (`Outline.tokens`,); the vectors go there in their order.
    """

    picture: Picture
    places: Int32Array


@runtime_checkable
class PictureReader(Protocol):
    """What a model does with pictures before it computes. Called beside the steps, from several threads."""

    @property
    def placeholder(self) -> str:
        """What the model's chat template writes where a picture goes: a token of the vocabulary by name."""
        ...

    @property
    def token_id(self) -> int:
        """The token whose place a vector of a picture takes."""
        ...

    def outline(self, high: int, wide: int) -> Outline:
        """What becomes of a picture of so many rows and columns of pixels.

        Raises:
            ValueError: It is none that the model takes; its words go to the client behind the name of the picture.
        """
        ...

    def read(self, pixels: UInt8Array) -> Mapping[str, Any]:
        """What the vectors of a picture are computed from, arrays by name; pixels are red, green, blue: (H, W, 3).

        Raises:
            ValueError: As above.
        """
        ...


@runtime_checkable
class SoundReader(Protocol):
    """What a model does with sounds before it computes. Called beside the steps, from several threads."""

    @property
    def placeholder(self) -> str:
        """As of `PictureReader`."""
        ...

    @property
    def token_id(self) -> int:
        """As of `PictureReader`."""
        ...

    @property
    def rate(self) -> int:
        """Samples a second of the sounds that it is given."""
        ...

    def hear(self, samples: int) -> Outline:
        """What becomes of a sound of so many samples.

        Raises:
            ValueError: It is none that the model takes; its words go to the client behind the name of the sound.
        """
        ...

    def read(self, sound: Float32Array) -> Mapping[str, Any]:
        """What the vectors of a sound are computed from, arrays by name; samples are of one channel, from -1 to 1.

        Raises:
            ValueError: As above.
        """
        ...
