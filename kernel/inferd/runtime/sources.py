"""Where the files of models are that callers name on this host: not everybody may name any file."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from inferd.content import links_of, part_names
from inferd.errors import InvalidFieldError, PermissionDeniedError, words_of
from inferd.plugin.recipe_file import find_recipe
from inferd.runtime.formats import INNER_MARKS, folder_format, lacks

FIELD = "model.source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The folders within which one may name files.

    Attributes:
        folders: They, absolute.
        told: Whether they may be told.
        named: Within which settings may name files, of which none is written; None where the same holds as of models.
    """

    folders: tuple[Path, ...]
    told: bool = False
    named: tuple[Path, ...] | None = None


def find_source(source: str, roots: Roots | None = None) -> Path:
    """The file or folder that a source names.

    Within `roots` its folder has no links any more, so that what was looked at is what is loaded, and all files of the
    model are within them, too: who may change what is there may change what is loaded, and nobody else. Of what is
    outside nothing is told, not even whether it is there.

    Args:
        source: A path, or the URL of a file.
        roots: Within which it has to be; None for anywhere.

    Raises:
        InvalidFieldError: It is no file and no model folder of this host.
        PermissionDeniedError: It, or a file of the model, is not within `roots`.
    """
    try:
        path = _path_of(source)
        if roots is not None:
            path = _within(path, source, roots)
        if not path.is_file() and folder_format(path) is None:
            what = lacks(path) if path.is_dir() else f"{path} does not exist"
            raise InvalidFieldError(f"source {what}", field=FIELD)
        if roots is not None:
            for file in (*files_of(path), find_recipe(path)):
                if not _is_within(file.resolve(), roots):
                    raise _outside(source, roots)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidFieldError(f"source {source[:200]!r} is no path: {words_of(error)}", field=FIELD) from None
    return path


def check_setting(name: str, value: str, roots: Roots) -> dict[str, str]:
    """Refuse a setting that names a file or a folder which is not within roots, or has links out of them.

    What it really is, and what the links in it lead to, is returned, for loads to hold against.

    Raises:
        InvalidFieldError: It is no absolute path without '..', or its folder cannot be listed.
        PermissionDeniedError: It, or something in its folder, is not within them.
    """
    if not Path(value).is_absolute():
        raise InvalidFieldError(f"setting {name!r} is {value[:200]!r}, no absolute path", field="model.settings")
    what, field = f"setting {name!r}", "model.settings"
    folder = _within(Path(value), value, roots, what=what, field=field).resolve()
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InvalidFieldError(f"{what}: {value!r} cannot be listed: {words_of(error)}", field=field) from None
    for each in inside:
        check_real(each, str(Path(value, each.name)), roots, what=what, field=field)
    try:
        return links_of(Path(value))
    except (OSError, RuntimeError) as error:
        raise InvalidFieldError(f"{what}: {value!r} cannot be looked at: {words_of(error)}", field=field) from None


def check_named(name: str, value: str, roots: Roots, *, written: bool) -> dict[str, str]:
    """As `check_setting`, within the folders where settings may name files.

    Raises:
        InvalidFieldError: As there; or it is `written`, and these folders are only read.
        PermissionDeniedError: As there.
    """
    if roots.named is None:
        return check_setting(name, value, roots)
    links = check_setting(name, value, replace(roots, folders=roots.named))
    if written:
        raise InvalidFieldError(
            f"setting {name!r} is {value[:200]!r}, where a worker would write: a model repository is only read; leave"
            " the setting out",
            field="model.settings",
        )
    return links


def check_real(path: Path, given: str, roots: Roots, *, what: str, field: str) -> None:
    """Refuse a file or a folder that links lead out of roots, whether it is there or not.

    Args:
        path: It.
        given: As it is told.
        roots: They.
        what: That which names it, for people.
        field: That in the request.

    Raises:
        PermissionDeniedError: They do.
    """
    try:
        within = _is_within(path.resolve(), roots)
    except (OSError, ValueError, RuntimeError):
        within = False
    if not within:
        raise _outside(given, roots, what=what, field=field)


def check_opened(descriptor: int, given: str, roots: Roots, *, what: str, field: str) -> None:
    """Refuse an opened file that is not within roots, whatever led there while it was opened.

    Raises:
        PermissionDeniedError: It is not within them.
    """
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        real = Path()
    if not _is_within(real, roots):
        raise _outside(given, roots, what=what, field=field)


def files_of(path: Path) -> list[Path]:
    """A file itself with the other parts of its model, or those of a folder and of one in it that has the model."""
    if path.is_file():
        parts = [path.with_name(name) for name in part_names(path.name)]
        return [path, *(part for part in parts if part != path and part.is_file())]
    inner = [path / mark for mark in INNER_MARKS if (path / mark).is_file()]
    folders = [path, *(each.parent for each in inner)]
    return [each for folder in folders for each in sorted(folder.iterdir()) if each.is_file()]


def _path_of(source: str) -> Path:
    parts = urlsplit(source)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        if parts.query or parts.fragment:
            raise InvalidFieldError(
                f"source {source!r} has more than a path, and nothing is made of it: write '?' as %3F and '#' as %23;"
                " the digest of a model that is uploaded is its source (inferd models upload)",
                field=FIELD,
            )
        path = Path(unquote(parts.path))
    elif not parts.scheme:
        path = Path(source)
    else:
        fix = f"fetch it first (inferd pull {source!r}), or have the kernel fetch it: https:, hub: or package:"
        raise InvalidFieldError(f"source {source!r} is not a file of this host; {fix}", field=FIELD)
    if not path.is_absolute():
        raise InvalidFieldError(f"source {source!r} is not an absolute path", field=FIELD)
    return path


def _within(path: Path, given: str, roots: Roots, *, what: str = "source", field: str = FIELD) -> Path:
    """The path without links but that of its own name, by which its format is known."""
    if ".." in path.parts:
        raise InvalidFieldError(f"{what} {given!r} has '..' in it; name the path without", field=field)
    try:
        whole, folder = path.resolve(), path.parent.resolve()
    except (OSError, ValueError, RuntimeError):  # no path, links in a circle, or a folder that may not be entered
        raise _outside(given, roots, what=what, field=field) from None
    if not (_is_within(whole, roots) and _is_within(folder / path.name, roots)):
        raise _outside(given, roots, what=what, field=field)
    return folder / path.name


def _is_within(path: Path, roots: Roots) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in roots.folders)


def _outside(given: str, roots: Roots, *, what: str = "source", field: str = FIELD) -> PermissionDeniedError:
    where = f": {', '.join(map(str, roots.folders))}" if roots.told else ", which its administrators know"
    return PermissionDeniedError(
        f"{what} {given!r} is not in a folder that callers may name files of (sources.roots of the kernel{where}); "
        "upload a model instead (inferd models upload), or ask an administrator for its folder",
        field=field,
    )
