"""Damage in the middle of a WAL (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).

SQLite takes a WAL up to its first bad frame and passes over the rest, as a crash in the middle of a write leaves one.
What follows a frame that ended a commit was written after that commit was on the disk: where SQLite reads neither, the
WAL was damaged afterwards, and what was acknowledged is lost.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
BIG_ENDIAN = 0x377F0683  # the magic number of a WAL whose sums are of such words; one less for little-endian ones


class _Frame(NamedTuple):
    number: int
    ends_commit: bool
    sums: tuple[int, int]  # of all frames up to its end
    summed: bytes  # what is added to the sums before it


def lost_frames(path: Path, valid: int) -> int:
    """How many frames of a WAL were committed and are not among the first `valid`, which SQLite reads; 0 for none.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_file():
        return 0
    last = valid
    with path.open("rb") as file:
        before: _Frame | None = None
        for frame in _frames(file, valid):
            follows = before is not None and before.ends_commit and before.number == frame.number - 1
            if follows and before is not None and _sums(frame.summed, before.sums, file) == frame.sums:
                last = frame.number
            before = frame
    return last - valid


def _frames(file: BinaryIO, valid: int) -> Iterator[_Frame]:
    """The frames behind the first `valid` that are of this WAL, and not of what it held before."""
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return
    page_bytes = int.from_bytes(header[8:12])
    number = valid
    while True:
        file.seek(HEADER_BYTES + number * (FRAME_HEADER_BYTES + page_bytes))
        frame = file.read(FRAME_HEADER_BYTES + page_bytes)
        number += 1
        if len(frame) < FRAME_HEADER_BYTES + page_bytes:
            return
        if frame[8:16] == header[16:24]:  # the salt, new when the WAL begins anew
            _, pages, _, _, *sums = struct.unpack(">6I", frame[:FRAME_HEADER_BYTES])
            yield _Frame(number, pages > 0, (sums[0], sums[1]), frame[:8] + frame[FRAME_HEADER_BYTES:])


def _sums(summed: bytes, before: tuple[int, int], file: BinaryIO) -> tuple[int, int]:
    file.seek(0)
    order = ">" if int.from_bytes(file.read(4)) == BIG_ENDIAN else "<"
    one, two = before
    words = struct.unpack(f"{order}{len(summed) // 4}I", summed)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
