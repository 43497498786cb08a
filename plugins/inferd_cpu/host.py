"""The processor of this host (Linux). Its memory and cores: `inferd.plugin.host`."""

import os
from pathlib import Path

from inferd.plugin.host import ROOT


def read_processor(root: Path = ROOT) -> str:
    """The processor's name, or its machine type where it gives none. `root` holds `proc`."""
    for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine
