"""A folder of a repository and its configuration as what a kernel is to serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.errors import InvalidFieldError
from inferd.model_names import APART
from inferd.plugin.names import is_file_name
from inferd.repository.ensembles import Ensemble, ensemble_of
from inferd.repository.onnx_settings import Computed, computed, note_rest, read_parameters
from inferd.repository.platforms import ONNX, PROGRAM, find_platform
from inferd.repository.programs import check_allowed, check_unchanged, program_of, told
from inferd.repository.terms import Terms, terms_of
from inferd.repository.unserved import check_served
from inferd.repository.versions import choose_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from inferd.repository.folders import Folder
    from inferd_api.inference.model_config_pb2 import ModelConfig

ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A version that is to be served, as a model of the kernel.

    Attributes:
        name: Of that model: the newest version has the one of the folder.
        number: Of the version.
        source: Absolute path of its file or folder.
        backend: That loads it; "" for the one that the kernel chooses.
        device: On which it is; "" for the one that the kernel chooses.
        settings: Of the backend, and those that every model has.
        program: What the worker of a `model.py` is told; None for what is none.
    """

    name: str
    number: int
    source: str
    backend: str = ""
    device: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    program: Mapping[str, str | int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a kernel is to serve of a folder.

    Attributes:
        name: Of the folder.
        terms: What holds of its requests.
        versions: They, rising; the last one is the newest. None of an ensemble.
        ensemble: What it is; None for what is no ensemble.
        number: Of the newest version.
        lacking: Why a version that is wanted is not there, by its number.
        notes: What the configuration says and is not obeyed, for people.
    """

    name: str
    terms: Terms
    versions: tuple[Wanted, ...] = ()
    ensemble: Ensemble | None = None
    number: int
    lacking: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def served_of(
    folder: Folder,
    config: ModelConfig,
    *,
    most_versions: int,
    programs: Collection[str] = (),
    own: ModelConfig | None = None,
) -> Served:
    """What is to be served of a folder.

    Args:
        folder: It.
        config: What its configuration says; empty where it has none.
        most_versions: Of one model, `repository.versions`.
        programs: Which models may be programs, `repository.programs`.
        own: What the folder's configuration says, where `config` is that of a load; None where it is the same.

    Raises:
        InvalidFieldError: Nothing of it can be; says why.
        OSError: Its folder cannot be read.
    """
    if config.name and config.name != folder.name:
        raise InvalidFieldError(
            f"unexpected directory name '{folder.name}' for model '{config.name[:128]}', directory name must equal"
            " model name",
            field="config.name",
        )
    check_served(config)
    wanted = choose_versions(config, folder.versions, most=most_versions)
    if config.HasField("ensemble_scheduling") or config.platform == ENSEMBLE:
        return Served(
            name=folder.name,
            terms=terms_of(config, platform=ENSEMBLE, backend=""),
            ensemble=ensemble_of(config, folder.name),
            number=wanted[-1],
        )
    newest = folder.path / str(wanted[-1])
    files = {each.name for each in newest.iterdir()} if newest.is_dir() else ()
    platform = find_platform(config, files)
    terms = terms_of(config, platform=platform.name, backend=platform.known_as)
    if platform is PROGRAM:
        check_allowed(folder.name, programs if own is None or find_platform(own, files) is PROGRAM else ())
        check_unchanged(config, config if own is None else own, platform.file)
    made = (computed if platform is ONNX else program_of if platform is PROGRAM else _own)(config)
    file = _file(config, platform.file)
    there = [number for number in wanted if (folder.path / str(number) / file).exists()]
    lacking = {
        number: f"unable to find '{folder.path / str(number) / file}' for model '{folder.name}'"
        for number in wanted
        if number not in there
    }
    if not there:
        raise InvalidFieldError(next(iter(lacking.values())), field="config.default_model_filename")
    return Served(
        name=folder.name,
        terms=terms,
        number=there[-1],
        versions=tuple(
            Wanted(
                name=folder.name if number == there[-1] else f"{folder.name}{APART}{number}",
                number=number,
                source=str(folder.path / str(number) / file),
                backend=platform.backend,
                device=made.device,
                settings=made.settings,
                program=told(config, name=folder.name, number=number, folder=folder.path / str(number))
                if platform is PROGRAM
                else None,
            )
            for number in there
        ),
        lacking=lacking,
        notes=tuple(made.notes),
    )


def _own(config: ModelConfig) -> Computed:
    """What any backend of inferd is told: its settings."""
    made = Computed()
    read_parameters(config, made)
    note_rest(config, made)
    for name in ("max_batch_size", "instance_group", "optimization"):
        if getattr(config, name) if name == "max_batch_size" else name in {f.name for f, _ in config.ListFields()}:
            made.note(name, "give settings of the backend as parameters: inferd.NAME")
    return made


def _file(config: ModelConfig, usual: str) -> str:
    name = config.default_model_filename or usual
    if not is_file_name(name):
        raise InvalidFieldError(
            f"default_model_filename is {name[:200]!r}; it must be the name of a file in the folder of a version, of"
            " 255 bytes at most",
            field="config.default_model_filename",
        )
    return name
