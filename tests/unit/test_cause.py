"""What an error of foreign code says to its author: where in the author's code it was."""

import sys
from pathlib import Path
from typing import Any

import pytest

from inferd.engine.cause import placed_line

MODULE = """
import numpy as np

class Session:
    def step(self):
        return np.zeros(3).reshape(2, 2)

    def wrong(self):
        return helper()

def helper():
    raise ValueError('no such thing')
"""


@pytest.fixture(params=["alone", "package", "namespace"])
def session(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session of a module by itself, of one in a package, and of one in a package without an `__init__.py`."""
    name = f"author_{request.param}"
    folder = tmp_path if request.param == "alone" else tmp_path / name
    folder.mkdir(exist_ok=True)
    path = folder / (f"{name}.py" if request.param == "alone" else "sessions.py")
    path.write_text(MODULE)
    if request.param == "package":
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name if request.param == "alone" else f"{name}.sessions", fromlist=["Session"])
    yield module.Session()
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


@pytest.mark.parametrize(("method", "said", "line"), [("step", "cannot reshape", 6), ("wrong", "no such thing", 12)])
def test_the_line_of_the_author(session: Any, method: str, said: str, line: int) -> None:
    """An error is told with the last line in the author's code, though it was raised in a library below."""
    with pytest.raises(ValueError, match=said) as caught:
        getattr(session, method)()
    told = placed_line(caught.value, session)
    assert said in told
    assert told.endswith(f"({sys.modules[type(session).__module__].__file__}:{line})")


def test_an_error_of_ours_has_no_place() -> None:
    """Where none of the author's code was on the way, no line is told, and neither is one of ours."""
    assert placed_line(TypeError("x"), object()) == "TypeError: x"
