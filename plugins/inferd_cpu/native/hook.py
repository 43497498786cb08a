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


class NativeHook(BuildHookInterface[Any]):
    """Runs for wheels and editable installs. Only a wheel with the library in it is bound to a platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, then have the library, or the note that says why there is none, packed."""
        library = Path(self.root) / LIBRARY
        script = Path(__file__).with_name("build.py")
        self.app.display_info("building the native library of the cpu backend")
        done = subprocess.run([sys.executable, str(script), "--out", str(library)], check=False)
        build_data["artifacts"] += [f"/{LIBRARY}", f"/{NOTE}"]
        if done.returncode == 0:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"  # loaded with ctypes: any Python, this platform
        else:
            library.unlink(missing_ok=True)  # of an earlier build: it would not be what the sources say
            self.app.display_warning("inferd is installed without its native library; `inferd doctor` says why")
        if version != "editable":
            self._add_manual(build_data)

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
