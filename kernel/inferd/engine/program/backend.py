"""What a worker loads for a `model.py`: its class, completed, and initialised."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.program import utils
from inferd.engine.program.correlation import Correlation
from inferd.engine.program.lane import Lane
from inferd.engine.program.session import ProgramSession, is_fault, place
from inferd.engine.program.signature import decoupled, signature_of
from inferd.engine.program.threads import PROGRAM
from inferd.plugin import LoadedTensorModel, LoadError, MemoryNeed, ModelDescription

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from inferd.plugin import LoadRequest
    from inferd.plugin.backend import ReportProgress

MODULE: Final = "triton_python_backend_utils"
CLASS: Final = "TritonPythonModel"
TICK_S: Final = 0.5
HALF_S: Final = 60.0
"""The initialisation of a program says nothing of how far it is: what is told is half after so long."""


class ProgramBackend:
    """Loads programs: in the place of a plugin's backend, and none itself."""

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """As much as its files have, and what its configuration says that it needs besides; nothing of it is run.

        Raises:
            LoadError: Its files cannot be read.
        """
        try:
            files = [each for each in request.path.parent.rglob("*") if each.is_file()]
            weights_bytes = sum(each.stat().st_size for each in files)
        except OSError as error:
            raise LoadError(f"the folder of {request.path} cannot be read: {error.strerror}") from error
        return MemoryNeed(weights_bytes=weights_bytes, workspace_bytes=_int(request, "memory_mib") << 20)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedTensorModel:
        """Import the program, have it complete its configuration, and initialise it.

        Raises:
            LoadError: It cannot be imported, or fails; names the line.
        """
        name, number = str(request.settings["model"]), str(request.settings["version"])
        config: dict[str, Any] = json.loads(str(request.settings["config"]))
        path, lane = request.path, Lane()
        with _advancing(progress), _failing(path):
            beginning = lane.call(_begin, path, config, name, number)
            if not wait((beginning,), begin_s := _int(request, "begin_s")).done:
                raise LoadError(
                    f"initialize of {path.name} has not returned within {begin_s} s; give it as long as it takes by the"
                    " parameter inferd.begin_s in config.pbtxt"
                )
            model, config = beginning.result()
        session = ProgramSession(
            model,
            lane,
            name=name,
            path=str(path),
            signature=signature_of(config),
            decoupled=decoupled(config),
            correlation=Correlation(config, name),
            quiet_s=_int(request, "quiet_s"),
        )
        progress(1.0)
        return LoadedTensorModel(
            session=session,
            description=ModelDescription(
                architecture="model.py", parameters=0, weight_format="its own", compute_format="its own"
            ),
        )


def _begin(path: Path, config: dict[str, Any], name: str, number: str) -> tuple[Any, dict[str, Any]]:
    """A program that is ready to compute, and its configuration as it is completed."""
    made = _import(path)
    config = _completed(made, config)
    signature_of(config)  # before the program takes its time
    if not callable(getattr(made, "execute", None)):
        raise LoadError(f"{CLASS} of {path} has no method execute")
    model = made()
    if callable(begin := getattr(model, "initialize", None)):
        begin(_arguments(config, name, number, path))
    return model, config


def _arguments(config: Mapping[str, Any], name: str, number: str, path: Path) -> dict[str, str]:
    """What `initialize` is given."""
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_repository": str(path.parent.parent),
        "model_version": number,
        "model_name": name,
    }


def _import(path: Path) -> Any:
    """The class of a program. Its folder goes before all others where it imports from."""
    utils.set_model_dir(str(path.parent))
    sys.modules[MODULE] = utils
    sys.path[:0] = [str(path.parent), str(path.parent.parent)]
    spec = importlib.util.spec_from_file_location(PROGRAM, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PROGRAM] = module
    sys.dont_write_bytecode = True  # a repository is only read
    spec.loader.exec_module(module)
    if not isinstance(made := getattr(module, CLASS, None), type):
        raise LoadError(f"{path} has no class {CLASS}, which every model.py must have")
    return made


def _completed(made: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what the program says that it lacks."""
    complete = getattr(made, "auto_complete_config", None)
    if not callable(complete):
        return config
    told = complete(utils.ModelConfig(config))
    if not isinstance(told, utils.ModelConfig):
        raise LoadError(f"auto_complete_config gave a {type(told).__name__}; it must give the configuration back")
    return told.as_dict()


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """What goes wrong in a program, in one line with its place."""
    try:
        yield
    except LoadError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        raise LoadError(f"{path.name} failed: {place(error, str(path))}") from error


@contextmanager
def _advancing(progress: ReportProgress) -> Iterator[None]:
    """Say that loading gets on, as long as other threads of Python do."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK_S):
            lasted_s = time.monotonic() - began
            progress(lasted_s / (lasted_s + HALF_S))  # rises for as long as it may last

    ticking = threading.Thread(target=tick, name="progress", daemon=True)
    ticking.start()
    try:
        yield
    finally:
        done.set()
        ticking.join()


def _int(request: LoadRequest, name: str) -> int:
    value = request.settings[name]
    if not isinstance(value, int):
        raise LoadError(f"setting {name!r} is {value!r}; it must be a whole number")
    return value
