"""Builds the native library when the package is installed. Without a compiler the install succeeds as pure Python."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("plugins/inferd_cpu/_native.so")
NOTE = LIBRARY.with_suffix(".txt")


class NativeHook(BuildHookInterface[Any]):
    """Runs for wheels and editable installs. Only a wheel with the library in it is bound to a platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
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
