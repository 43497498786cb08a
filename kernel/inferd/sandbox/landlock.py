"""Landlock: which files a process may open, and whom it may send signals. For the calling thread and its children."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from inferd.sandbox.system import PR_SET_NO_NEW_PRIVS, call, prctl

CREATE_RULESET: Final = 444  # the same number on every machine, as the next two
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION, linux/landlock.h
_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0  # linux/landlock.h: rights to files
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_FILE: Final = 1 << 5
_MAKE_FILE: Final = 1 << 8
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

READ: Final = _READ_FILE | _READ_DIR
"""Reading files, and listing folders."""

RUN: Final = READ | _EXECUTE
"""As well as starting the programs there."""

USE: Final = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
"""Of a device."""

_DEVICE_NODES: Final = 1 << 6 | 1 << 11
_SOCKETS: Final = 1 << 9
WRITE: Final = ((1 << 16) - 1) & ~(_EXECUTE | _IOCTL_DEV | _DEVICE_NODES | _SOCKETS)
"""All that is done in a folder of one's own: neither devices nor sockets are made there."""

SHARE: Final = _READ_FILE | _WRITE_FILE | _MAKE_FILE | _REMOVE_FILE | _TRUNCATE
"""All that is done with files in a folder that others use, too: by names that one knows, for none can be listed."""

TRUNCATES: Final = 3
"""The version from which it forbids that files are cut."""

SIGNALS: Final = 6
"""The version from which it forbids signals to processes outside."""

_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights to files each version knows; later ones know 16."""

_TCP: Final = 3  # to bind and to connect
_SCOPES: Final = 3  # abstract sockets and signals


def version() -> int:
    """Which version this system has; 0 for none."""
    with suppress(OSError):
        return call(CREATE_RULESET, None, 0, _VERSION)
    return 0


class Ruleset:
    """Rules to be added to, then to be enforced once.

    Args:
        abi: What `version` has said, at least 1.
        network: Whether TCP stays allowed.

    Raises:
        OSError: The system makes none.
    """

    def __init__(self, abi: int, *, network: bool) -> None:
        self._rights = (1 << _BITS.get(abi, 16)) - 1
        tcp = _TCP if abi >= 4 and not network else 0  # noqa: PLR2004 - the version from which it knows TCP
        scopes = _SCOPES if abi >= SIGNALS else 0
        attributes = struct.pack("<QQQ", self._rights, tcp, scopes)
        size = 8 if abi < 4 else 16 if abi < SIGNALS else 24  # noqa: PLR2004 - as above
        self._descriptor = call(CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)

    def allow(self, paths: Iterable[Path], rights: int) -> None:
        """Allow this at a path and below it; one that is not there, or may not be seen, is passed over."""
        for path in paths:
            with suppress(OSError):
                self._allow(path, rights & self._rights)

    def _allow(self, path: Path, rights: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _OF_FILES
            rule = struct.pack("<Qi", rights, descriptor)
            call(_ADD_RULE, self._descriptor, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
        finally:
            os.close(descriptor)

    def enforce(self) -> None:
        """Hold this thread and its children to it, besides all that they are held to already.

        Raises:
            OSError: The system does not.
        """
        try:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            call(_RESTRICT_SELF, self._descriptor, 0)
        finally:
            os.close(self._descriptor)
