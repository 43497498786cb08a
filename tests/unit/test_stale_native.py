"""A native library beside other sources than its own: what is told of it, and where."""

import ctypes
from pathlib import Path
from unittest.mock import Mock

import pytest

from inferd.cli.lacking import note_lacking
from inferd_api.v1.host_pb2 import Backend, BackendState
from inferd_cpu.native import INTERFACE, Native, NativeMissing


def test_a_library_of_other_sources_says_which_is_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of before a pull, or of a newer checkout, is not used, and what to do is told with both numbers."""
    library = tmp_path / "_native.so"
    library.touch()
    for interface, age in ((INTERFACE - 1, "older"), (INTERFACE + 1, "newer")):
        monkeypatch.setattr(ctypes, "CDLL", Mock(return_value=Mock(inferd_interface=Mock(return_value=interface))))
        with pytest.raises(NativeMissing, match=f"is {age} than the Python code beside it") as caught:
            Native(path=library)
        assert (str(INTERFACE) in str(caught.value), caught.value.fix != "") == (True, True)


def test_what_a_backend_works_without_is_told_where_its_models_are_loaded_or_shown() -> None:
    """Of the backend of the model alone, with the fix; nothing where it lacks nothing, or does not work at all."""
    ready, broken = BackendState.BACKEND_STATE_READY, BackendState.BACKEND_STATE_FAILED
    client, output = Mock(), Mock()
    client.list_backends.return_value = [
        Backend(name="cpu", state=ready, why="models run with numpy", fix="make native"),
        Backend(name="whole", state=ready),
        Backend(name="broken", state=broken, why="it raised"),
    ]
    for name in ("whole", "broken", "none", "cpu"):
        note_lacking(output, client, name)
    output.note.assert_called_once_with(
        "backend cpu: models run with numpy; fix: make native, then start the kernel again"
    )
