"""Builds the native library when the package is installed, and the manual when it is packed.

Without a compiler the install succeeds as pure Python; without what the command line imports, there is no manual.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("plugins/inferd_cpu/_native.so")
NOTE = LIBRARY.with_suffix(".txt")
SHARE = Path("build/share")
TARGET = "INFERD_WHEEL_TARGET"
"""Variable of a build: a processor to compile for with a cross compiler, as aarch64; NONE for Python alone."""
NONE = "none"
WITHOUT = "this package was built without the native library, for any platform"
WITHOUT_FIX = "pip install --no-binary inferd inferd, with a C++17 compiler (Debian: apt install g++)"


class NativeHook(BuildHookInterface[Any]):
    """Runs for wheels and editable installs. Only a wheel with the library in it is bound to a platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, then have the library, or the note that says why there is none, packed."""
        library, target = Path(self.root) / LIBRARY, os.environ.get(TARGET, "")
        build_data["artifacts"] += [f"/{LIBRARY}", f"/{NOTE}"]
        if target != NONE and self._build(library, target):
            platform = f"linux-{target}" if target else sysconfig.get_platform()
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"  # loaded with ctypes
        else:
            library.unlink(missing_ok=True)  # of an earlier build: it would not be what the sources say
            if target == NONE:
                library.with_suffix(".txt").write_text(f"{WITHOUT}\n{WITHOUT_FIX}\n")
            self.app.display_warning("inferd is installed without its native library; `inferd doctor` says why")
        if version != "editable":
            self._add_manual(build_data)

    def _build(self, library: Path, target: str) -> bool:
        """Build the library for a processor, "" for this one; whether that could be done."""
        self.app.display_info("building the native library of the cpu backend")
        script = Path(__file__).with_name("build.py")
        cross = ["--target", target] if target else []
        return subprocess.run([sys.executable, str(script), "--out", str(library), *cross], check=False).returncode == 0

    def _add_manual(self, build_data: dict[str, Any]) -> None:
        """Have pages for man and what shells are told packed, to be below `share` of the installation."""
        root = Path(self.root)
        share = root / SHARE
        shutil.rmtree(share, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "inferd.cli.manual", str(share)],
            env={**os.environ, "PYTHONPATH": str(root / "kernel"), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )
        if done.returncode:
            self.app.display_warning("inferd is packed without its manual: typer or rich is not here")
            return
        for file in sorted(share.rglob("*")):
            if file.is_file():
                build_data["shared_data"][str(file)] = f"share/{file.relative_to(share)}"
