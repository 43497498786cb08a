"""The pictures and sounds of conversations: opened, bounded, decoded, and read as the model wants them."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

import numpy as np

from inferd.engine.pictures.kept import Kept, count_bytes
from inferd.engine.pictures.placing import expand, find_places
from inferd.engine.pictures.sources import READS, open_source
from inferd.errors import InvalidFieldError, LimitExceededError, PromptTooLongError, UnsupportedInputError
from inferd.plugin.pictures import Outline, Picture, PlacedPicture

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from inferd.engine.pictures.limits import PictureLimits
    from inferd.engine.text.control import Prompt
    from inferd.engine.work import ChatInput
    from inferd.plugin.pictures import PictureReader, SoundReader
    from inferd.plugin.session import Int32Array

_KEY_BYTES: Final = 32


class Gallery:
    """Pictures of the tasks of one model. Called from any thread.

    Args:
        reader: Of the model.
        limits: Of the kernel.
        step_tokens: Most tokens of one picture, where those are computed in one step; 0 where they need not be.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self, reader: PictureReader | SoundReader, limits: PictureLimits, *, step_tokens: int = 0) -> None:
        self._reader = reader
        self._most = limits.count
        self._step_tokens = step_tokens
        self._source = open_source(reader, limits)
        self._noun = "sounds" if self._source.hears else "pictures"
        self._kept_bytes = limits.kept_bytes
        self._kept = Kept(limits.kept_bytes)

    def arranger(
        self, chat: ChatInput, added: Collection[str], *, most_tokens: int | None = None
    ) -> Callable[[Prompt], Prompt]:
        """What puts the tokens of its pictures into a rendered conversation.

        Only what their files say of their sizes is read for it.

        Args:
            chat: The conversation.
            added: The tokens that are recognised inside any text.
            most_tokens: Of a prompt; None for any.

        Raises:
            InvalidFieldError: A file is no picture, is too large, moves, or is none that the model takes.
            LimitExceededError: There are too many, or a picture has more tokens than a step, which its tokens have to
                be computed in.
            PromptTooLongError: Pictures alone have more than `most_tokens`.
        """
        outlines = self._outlines(chat, most_tokens)
        return partial(expand, outlines=outlines, placeholder=self._reader.placeholder, added=added)

    def place(self, chat: ChatInput, token_ids: Sequence[int], *, salt: bytes) -> tuple[PlacedPicture, ...]:
        """The pictures of a conversation, read, in their places in its prompt.

        Args:
            chat: It.
            token_ids: Of the prompt.
            salt: Whose they are: others find nothing of them.

        Raises:
            ChatTemplateError: The prompt has tokens of other pictures.
            InvalidFieldError: As `arranger`, or a file is damaged.
            LimitExceededError: What was read of them takes more than is kept.
        """
        outlines = self._outlines(chat)
        places = find_places(np.asarray(token_ids, np.int32), outlines, self._reader.token_id)
        fields = chat.fields_of_files
        given = zip(chat.files, fields, outlines, places, strict=True)
        sizes: dict[bytes, int] = {}
        return tuple(
            self._placed(file, field, outline, own, salt=salt, sizes=sizes) for file, field, outline, own in given
        )

    def _outlines(self, chat: ChatInput, most_tokens: int | None = None) -> list[Outline]:
        """Of its pictures; their number is bounded before any is looked at, and their tokens with each."""
        given = len(chat.files)
        if given > self._most:
            raise LimitExceededError(
                f"spec.chat.messages has {given} {self._noun}, and workers.pictures allows {self._most}: send fewer",
                metadata={"bound": "workers.pictures", "value": str(given), "limit": str(self._most)},
            )
        outlines, count = [], 0
        for file, field, sound in zip(chat.files, chat.fields_of_files, chat.sound_files, strict=True):
            if sound is not self._source.hears:
                raise _refused(field, f"this model takes {self._noun} alone", sound=sound)
            outlines.append(outline := self._outline(file, field))
            count += outline.tokens
            if most_tokens is not None and count > most_tokens:
                first = "" if len(outlines) == given else f", the first {len(outlines)}"
                raise PromptTooLongError(
                    f"the prompt has {given} {self._noun}{first} of {count} tokens in all, and the model's context is"
                    f" {most_tokens + 1} tokens; send fewer or smaller ones",
                    metadata={"prompt_tokens": str(count), "limit_tokens": str(most_tokens + 1)},
                )
        return outlines

    def _outline(self, file: bytes, field: str) -> Outline:
        try:
            outline = self._source.outline(file)
        except ValueError as error:
            raise InvalidFieldError(f"{field} {error}", field=field) from None
        if self._step_tokens and outline.tokens > self._step_tokens:
            raise LimitExceededError(
                f"{field} has {outline.tokens} tokens, which are computed in one step, and a step has"
                f" {self._step_tokens}: raise workers.step_tokens, and the model's setting 'max_step_tokens'",
                field=field,
                metadata={"value": str(outline.tokens), "limit": str(self._step_tokens)},
            )
        return outline

    def _placed(
        self, file: bytes, field: str, outline: Outline, places: Int32Array, *, salt: bytes, sizes: dict[bytes, int]
    ) -> PlacedPicture:
        """A picture, read; what it takes goes into `sizes`, where its key is that of no other."""
        salt_key = blake2b(salt, digest_size=_KEY_BYTES).digest()
        key = blake2b(file, key=salt_key, digest_size=_KEY_BYTES).digest()
        try:
            read = self._values(key, file, outline)
        except ValueError as error:
            raise InvalidFieldError(f"{field} {error}", field=field) from None
        sizes[key] = count_bytes(read)
        self._check_sizes(sizes, field)
        values = _Reading(partial(self._values, key, file, outline, waits=False))
        if self._kept.hold(key):
            values.let_go = finalize(values, self._kept.release, key)
            values.let_go.atexit = False
        return PlacedPicture(picture=Picture(key=key, outline=outline, values=values), places=places)

    def _check_sizes(self, sizes: Mapping[bytes, int], field: str) -> None:
        """Refuse a conversation of which not all pictures can be held until they are computed."""
        size_bytes, most = sum(sizes.values()), self._kept_bytes
        if most and size_bytes > most:
            raise LimitExceededError(
                f"{field} and the {self._noun} before it take {size_bytes} bytes until they are computed, and"
                f" workers.picture_bytes allows {most}: send fewer or smaller ones, or raise it",
                field=field,
                metadata={"bound": "workers.picture_bytes", "value": str(size_bytes), "limit": str(most)},
            )

    def _values(self, key: bytes, file: bytes, outline: Outline, *, waits: bool = True) -> Mapping[str, Any]:
        """Of a picture; `waits`: until there is room to read it, as the thread of the steps must not."""
        if (kept := self._kept.find(key)) is not None:
            return kept
        values = self._source.values(file, outline, waits=waits)
        self._kept.keep(key, values)
        return values


class _Reading:
    """Gives what was read of a picture; it is held until that is asked for, or nobody can ask for it any more.

    Attributes:
        let_go: Ends the holding, once.
    """

    __slots__ = ("__weakref__", "_read", "let_go")

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read
        self.let_go: finalize[..., Any] | None = None

    def __call__(self) -> Mapping[str, Any]:
        values = self._read()
        if self.let_go is not None:
            self.let_go()
        return values


class NoGallery:
    """Of a model that takes no pictures.

    Args:
        why: Half a sentence; "" where there is nothing to say.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def arranger(self, chat: ChatInput, _added: Collection[str], *, most_tokens: int | None = None) -> Any:
        """Refuse.

        Raises:
            UnsupportedInputError: Always.
        """
        del most_tokens
        why = f" ({self._why})" if self._why else ""
        raise _refused(chat.fields_of_files[0], f"this model takes none{why}", sound=chat.sound_files[0])

    def place(self, _chat: ChatInput, _token_ids: Sequence[int], *, salt: bytes) -> tuple[PlacedPicture, ...]:
        """None: they were refused before."""
        del salt
        return ()


def _refused(field: str, why: str, *, sound: bool) -> UnsupportedInputError:
    """A file is of a kind that the model does not take."""
    message = f"{field} is {'a sound' if sound else 'an image'}, and {why}: leave it out, or ask {READS[sound]}"
    return UnsupportedInputError(message, field=field)


def open_gallery(
    pictures: PictureReader | SoundReader | str, limits: PictureLimits, *, step_tokens: int = 0
) -> Gallery | NoGallery:
    """Where the pictures or sounds of a model's tasks are read, if it takes any; see `Gallery`."""
    if isinstance(pictures, str):
        return NoGallery(pictures)
    try:
        return Gallery(pictures, limits, step_tokens=step_tokens)
    except ImportError:
        return NoGallery("Pillow, which reads pictures, is not installed: pip install 'inferd[files]'")
