"""Images and sounds of conversations from the wire: their files; nothing of those is looked into here."""

import base64
import binascii

from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd_api.v1 import task_pb2 as pb

_BLANKS = b" \t\n\f\r"  # in base64 they say nothing: encoders break lines


def read_image(part: pb.ContentPart, at: str) -> bytes:
    """The file of a part that is an image or a sound; `at` is its path.

    Raises:
        InvalidFieldError: It has none, or two, or a data URL that is none.
        UnsupportedInputError: It is somewhere else.
    """
    kind = part.WhichOneof("kind")
    given = part.audio if kind == "audio" else part.image
    if bool(given.url) == bool(given.data):
        said = "has url and data; set one of them" if given.url else "is empty; set its data"
        raise InvalidFieldError(f"{at}.{kind} {said}", field=f"{at}.{kind}")
    return given.data or _read_url(given.url, f"{at}.{kind}.url")


def _read_url(url: str, at: str) -> bytes:
    head, comma, body = url.partition(",")
    if head[:5].lower() != "data:":
        scheme = url.partition(":")[0][:20]
        raise UnsupportedInputError(
            f"{at} is {scheme!r} and not a data URL; the kernel fetches nothing: send the file as data",
            field=at,
        )
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidFieldError(f'{at} is no data URL in base64, as "data:image/png;base64,…"', field=at)
    try:
        return base64.b64decode(body.encode("ascii").translate(None, _BLANKS), validate=True) or _empty(at)
    except (binascii.Error, ValueError) as error:  # the latter of characters that are not ASCII
        raise InvalidFieldError(f"{at} is no base64: {error}", field=at) from None


def _empty(at: str) -> bytes:
    raise InvalidFieldError(f"{at} has no bytes", field=at)
