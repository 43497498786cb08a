"""The environments of the peers, and the model in their forms: made once, outside of the tree."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from catalogue import FORMS, PACKAGES, UNWANTED, Form
from large import SHAPES, write

HERE = Path(__file__).resolve().parent
INSTALL_S, MAKE_S = 1800, 1200


class Unavailable(Exception):  # noqa: N818 - no defect: it is not to be had here
    """Why something cannot be had on this machine."""


class Home:
    """A folder with all that peers need.

    Args:
        folder: Made when it is not there.
        weights: The file that this tree runs.
        shape: Of the model, one of `large.SHAPES`; "" for that of `weights`, whose vocabulary others have.
    """

    def __init__(self, folder: Path, weights: Path, shape: str = "") -> None:
        self.folder, self._models = folder, folder / shape
        self._models.mkdir(parents=True, exist_ok=True)
        self._weights = self._models / f"{shape}.gguf" if shape else weights
        if shape and not self._weights.exists():
            made = self._weights.with_suffix(".part")
            write(weights, made, SHAPES[shape])
            made.rename(self._weights)
        self._failed: dict[str, str] = {}

    def python(self, environment: str) -> Path:
        """The interpreter of an environment, "" for this one's own; installs what it needs.

        Raises:
            Unavailable: It cannot be installed.
        """
        if not environment:
            return Path(sys.executable)
        folder = self.folder / environment
        python, ready = folder / "bin" / "python", folder / "ready"
        if not ready.exists():
            self._once(environment, [sys.executable, "-m", "venv", str(folder)], INSTALL_S)
            pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary"]
            self._once(environment, [*pip, "--only-binary=:all:", *PACKAGES[environment]], INSTALL_S)
            self._once(environment, [*pip[:3], "uninstall", "-q", "-y", *UNWANTED], INSTALL_S)
            ready.touch()
        return python

    def model(self, form: str) -> Path:
        """The model in a form, "" for this tree's own.

        Raises:
            Unavailable: It cannot be made.
        """
        if not form:
            return self._weights
        wanted = next(one for one in FORMS if one.name == form)
        out = self._models / wanted.place
        if not out.exists():
            made = out.with_name(f"{out.name}.part")
            out.parent.mkdir(parents=True, exist_ok=True)
            source = self.model(wanted.made_of)
            self._once(form, self._maker(wanted, source, made), MAKE_S)
            made.rename(out)
        return out

    def _maker(self, form: Form, source: Path, out: Path) -> list[str]:
        python = str(self.python(form.environment))
        if form.name == "onnx4":
            builder = [python, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(out)]
            cache = str(self.folder / "cache")
            return [*builder, "-p", "int4", "-e", "cpu", "-c", cache, "--extra_options", "int4_accuracy_level=4"]
        return [python, str(HERE / "make_models.py"), form.name, str(source), str(out)]

    def _once(self, what: str, command: list[str], timeout_s: float) -> None:
        """Run a command; one that failed is not tried again for the same thing in this run."""
        if what in self._failed:
            raise Unavailable(self._failed[what])
        try:
            call(command, self.folder, timeout_s)
        except Unavailable as error:
            self._failed[what] = str(error)
            raise


def call(command: list[str], folder: Path, timeout_s: float, environment: dict[str, str] | None = None) -> str:
    """What a program prints, run in a folder without what this one's environment says of Python.

    Raises:
        Unavailable: It did not end well: its last words, or the signal that ended it.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own |= {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"} | (environment or {})
    try:
        done = subprocess.run(
            command, cwd=folder, env=own, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done in {timeout_s:g} s") from None
    if done.returncode == 0:
        return done.stdout
    words = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    cause = next((line for line in reversed(words) if "error" in line.lower()), words[-1])
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
    raise Unavailable(f"{how}: {cause[:300]}")
