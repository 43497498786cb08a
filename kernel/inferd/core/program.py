"""Programs: models that are a `model.py` of a model repository."""

from typing import Final

LOADER: Final = "inferd.engine.program.backend:ProgramBackend"
"""What a worker loads for one: no plugin, so that nobody makes such a model but the repository of a kernel."""
BACKEND: Final = "python"
FILE: Final = "model.py"
