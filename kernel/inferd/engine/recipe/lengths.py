"""Files of sounds that do not say how long they are, or say it wrong: counted, and made again so that they say it.

A reader believes the head of a file, or guesses from its first frames, and leaves off what is beyond. Sources: ISO/IEC
11172-3 (frames of MP3), the Xing header as encoders write it, RFC 9639 (FLAC), ID3v2.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN: Final = 1 << 62  # samples that a reader tells where a file does not say how many it has

KBITS_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBITS_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBITS_64: Final = (8, 5)  # which of them is 64, of versions 2 and 1
RATES_1: Final = (44_100, 48_000, 32_000)
RATE_SHARES: Final = {0: 4, 2: 2, 3: 1}  # of the rates of version 1, by the bits of a version; 1 is none
MONO, LAYER_3, HEAD, IN_A_ROW = 3, 1, 4, 3
SIDES: Final = {
    (True, True): 17,
    (True, False): 32,
    (False, True): 9,
    (False, False): 17,
}  # bytes, by version 1 and mono
HEADED: Final = (b"Xing", b"Info")
VBRI_AT: Final = 36
MOST_LOST: Final = 1 << 16  # places that look like a frame and are none
TAGS: Final = (b"TAG", b"ID3", b"APETAGEX")

FLAC_HEAD, FLAC_LENGTH_AT, BLOCK_AT, MOST_FRAME_HEAD = 42, 21, 10, 16
MOST_FRAME: Final = 1 << 20  # bytes at the end of a FLAC in which its last whole frame is looked for
CODED: Final = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
CODED_BYTES: Final = {6: 1, 7: 2}  # behind the number, in which a size stands
RATE_BYTES: Final = {12: 1, 13: 2, 14: 2}
UTF_BYTES: Final = range(8)


class _Frame(NamedTuple):
    """A frame of an MP3; `form` is what those of one sound have in common."""

    begin: int
    end: int
    samples: int
    form: tuple[int, int, bool]


def mend_mp3(content: bytes, most_samples: int) -> bytes:
    """An MP3 whose head tells of all its frames: as it is, or made again.

    Args:
        content: Of the file.
        most_samples: Beyond them nothing is counted.

    Raises:
        ValueError: Its parts are of different forms, or too much of it is no MP3.
    """
    frames: list[_Frame] = []
    heads: list[int] = []
    samples = 0
    for frame in _walk(content):
        if frames and frame.form != frames[0].form:
            raise ValueError("is an MP3 of parts that differ in rate or channels; save it as one sound")
        if (at := _find_head(content, frame)) or content[frame.begin + VBRI_AT :][:4] == b"VBRI":
            heads += [at] if not frames else [-1]
            continue
        frames.append(frame)
        samples += frame.samples
        if samples > most_samples:
            break
    if not frames:
        return content
    if len(heads) == 1 and heads[0] > 0:
        flags, told = struct.unpack_from(">II", content, heads[0] + 4)
        if flags & 1 and told in (len(frames), len(frames) + 1):
            return content
    return _make_head(content, frames) + b"".join(content[frame.begin : frame.end] for frame in frames)


def _walk(content: bytes) -> Iterator[_Frame]:
    """The frames of an MP3, one behind another, over all that is none."""
    at = lost = 0
    before: _Frame | None = None
    while at < len(content):
        if content[at : at + 3] == b"ID3" and len(content) >= at + 10:
            a, b, c, d = content[at + 6 : at + 10]
            at += 10 + (a << 21 | b << 14 | c << 7 | d)
            before = None
            continue
        frame = _read_frame(content, at)
        follows = before is not None and frame is not None and frame.form == before.form
        if frame is not None and (follows or _leads_on(content, frame)):
            before = frame
            yield frame
            at = frame.end
            continue
        before = None
        lost += content[at] == 0xFF  # noqa: PLR2004 - of a frame's first byte
        if lost > MOST_LOST:
            raise ValueError("is a damaged MP3: too much of it is no frame; save it again")
        found = [place for mark in (b"\xff", b"ID3") if (place := content.find(mark, at + 1)) >= 0]
        at = min(found, default=len(content))


def _leads_on(content: bytes, frame: _Frame) -> bool:
    """Whether others of its form come behind a frame, or the end: four bytes alone are easily found by chance."""
    at = frame.end
    for _ in range(IN_A_ROW - 1):
        if at == len(content) or content.startswith(TAGS, at):
            return True
        following = _read_frame(content, at)
        if following is None:
            return content.startswith(content[frame.begin : frame.begin + 2], at)  # the last one is cut off
        if following.form != frame.form:
            return False
        at = following.end
    return True


def _read_frame(content: bytes, at: int) -> _Frame | None:
    """The frame at a place, where there is a whole one of layer III."""
    if len(content) < at + HEAD or content[at] != 0xFF or content[at + 1] < 0xE0:  # noqa: PLR2004 - eleven bits
        return None
    version, layer = content[at + 1] >> 3 & 3, content[at + 1] >> 1 & 3
    kbits, rate = content[at + 2] >> 4, content[at + 2] >> 2 & 3
    if version not in RATE_SHARES or layer != LAYER_3 or not 0 < kbits < len(KBITS_1) or rate >= len(RATES_1):
        return None
    first = version == MONO
    samples = 1152 if first else 576
    size = _size(kbits, RATES_1[rate] // RATE_SHARES[version], first=first) + (content[at + 2] >> 1 & 1)
    if len(content) < at + size:
        return None
    return _Frame(at, at + size, samples, (version, rate, content[at + 3] >> 6 == MONO))


def _size(kbits: int, rate: int, *, first: bool) -> int:
    return (144 if first else 72) * (KBITS_1 if first else KBITS_2)[kbits] * 1000 // rate


def _find_head(content: bytes, frame: _Frame) -> int:
    """Where the head of a whole file stands in a frame; 0 where there is none."""
    at = frame.begin + HEAD + SIDES[frame.form[0] == MONO, frame.form[2]]
    return at if content[at : at + 4] in HEADED and at + 16 <= frame.end else 0


def _make_head(content: bytes, frames: list[_Frame]) -> bytes:
    """A frame that tells how many others there are."""
    one = frames[0]
    first = one.form[0] == MONO
    kbits = KBITS_64[first]
    head = bytearray(_size(kbits, RATES_1[one.form[1]] // RATE_SHARES[one.form[0]], first=first))
    begin = content[one.begin : one.begin + HEAD]
    head[:HEAD] = bytes((begin[0], begin[1] | 1, kbits << 4 | begin[2] & 0x0C, begin[3]))
    size = len(head) + sum(frame.end - frame.begin for frame in frames)
    struct.pack_into(">4sIII", head, HEAD + SIDES[first, one.form[2]], b"Xing", 3, len(frames), size)
    return bytes(head)


def mend_flac(content: bytes) -> bytes:
    """A FLAC that did not say its length and says it now, by its last whole frame.

    Raises:
        ValueError: There is none.
    """
    ends, look = [len(content)], len(content)
    for _ in range(MOST_LOST):
        look = content.rfind(b"\xff", max(FLAC_HEAD, len(content) - MOST_FRAME), look)
        if look < 0 or content[:4] != b"fLaC":
            break
        samples = _count_flac(content, look)
        if not samples:
            continue
        if any(_check(content[look:end], 0x8005, 16) == 0 for end in ends[-IN_A_ROW:]):
            low = samples.to_bytes(5, "big")  # of 36 bits; the upper half of the first byte is of something else
            first = content[FLAC_LENGTH_AT] & 0xF0 | low[0] & 0x0F
            return content[:FLAC_LENGTH_AT] + bytes((first,)) + low[1:] + content[FLAC_LENGTH_AT + len(low) :]
        ends.append(look)  # the frame before ends here, where this one is cut off
    raise ValueError("is a FLAC that does not say how long it is, and no whole frame is at its end; save it again")


def _count_flac(content: bytes, at: int) -> int:
    """How many samples of each channel there are to the end of a frame; 0 where none begins at the place."""
    head = content[at : at + MOST_FRAME_HEAD]
    if len(head) < MOST_FRAME_HEAD or head[1] & 0xFE != 0xF8 or head[3] & 1:  # noqa: PLR2004 - fifteen bits
        return 0
    code, rate = head[2] >> 4, head[2] & 15
    number, more = _read_number(head[HEAD:])
    end = HEAD + more
    block = (
        int.from_bytes(head[end : end + CODED_BYTES[code]], "big") + 1 if code in CODED_BYTES else CODED.get(code, 0)
    )
    end += CODED_BYTES.get(code, 0) + RATE_BYTES.get(rate, 0)
    if not more or not block or _check(head[: end + 1], 0x07, 8):
        return 0
    usual = int.from_bytes(content[BLOCK_AT : BLOCK_AT + 2], "big")
    return (number if head[1] & 1 else number * usual) + block


def _read_number(coded: bytes) -> tuple[int, int]:
    """A number coded like a letter of UTF-8, up to 36 bits, and its bytes; 0 bytes where there is none."""
    ones = 8 - (coded[0] ^ 0xFF).bit_length()
    if not ones:
        return coded[0], 1
    if ones == 1 or ones == len(UTF_BYTES):
        return 0, 0
    number = coded[0] & (0x7F >> ones)
    for byte in coded[1:ones]:
        number = number << 6 | byte & 0x3F
    return number, ones


def _check(content: bytes, polynomial: int, bits: int) -> int:
    """The remainder that ends a frame, or its head; 0 over both of them."""
    found, top, most = 0, 1 << (bits - 1), (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & most
        table.append(value)
    for byte in content:
        found = (found << 8 & most) ^ table[found >> (bits - 8) ^ byte]
    return found
