"""The real model that figures are taken with."""

import json
import subprocess
import sys
from pathlib import Path


def smollm2() -> Path:
    """The weights of SmolLM2-135M-Instruct, pulled once."""
    pulled = subprocess.run(
        [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(json.loads(pulled.stdout)["path"])
