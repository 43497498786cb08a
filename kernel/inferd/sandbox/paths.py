"""What any process that computes reads of a system: Python, libraries, what the system tells of itself."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_CONFIGURATION: Final = (  # none of it is secret
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/etc/os-release"),
    *("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/crypto-policies"),
)
_NETWORK: Final = (  # how names are resolved, and authorities of certificates
    *("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"),
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem"),
    *("/etc/pki/ca-trust/extracted", "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"),
)
_TOLD: Final = ("/proc", "/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/bus", "/sys/module")

DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""What any process uses."""


def libraries(package: str = "") -> list[Path]:
    """Python with all that it imports, and the system's libraries; and those of a package that is not imported yet."""
    found = [*_SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    for finder in sys.meta_path:  # packages that are installed in place
        places = getattr(sys.modules.get(getattr(finder, "__module__", "") or ""), "MAPPING", None)
        if isinstance(places, dict):
            found += map(str, places.values())
    with suppress(ImportError, ValueError, AttributeError):
        from importlib.util import find_spec  # noqa: PLC0415 - only where there is one

        spec = find_spec(package.partition(".")[0]) if package else None
        found += [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin or ""]
    found += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    found += _linked_folders(Path("/etc/ld.so.conf"))
    return [path for path in map(Path, dict.fromkeys(found)) if path.is_absolute() and path != Path("/")]


def told(*, network: bool = False) -> list[Path]:
    """What the system tells of itself to everybody, and how it is set up, as far as libraries read it.

    Args:
        network: As well as how the network is.
    """
    return [Path(each) for each in (*_CONFIGURATION, *_TOLD, *(_NETWORK if network else ()))]


def _linked_folders(config: Path, *, depth: int = 3) -> list[str]:
    """The folders of libraries that the system's linker is told of; see ldconfig(8)."""
    found: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        for line in config.read_text().splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["include"] and depth:
                for pattern in words[1:]:
                    for each in sorted(Path(config.parent).glob(os.path.relpath(pattern, config.parent))):
                        found += _linked_folders(each, depth=depth - 1)
            elif words:
                found.append(words[0])
    return found
