"""What a bundle says of itself: the model, its settings, and each file by digest, size and pieces.

    {"format": "inferd bundle 1", "model": {…}, "piece_bytes": 4194304, "base": null, "files": [
      {"name": "model.gguf", "sha256": "…", "size_bytes": 9, "setting": "", "pieces": ["…"], "from_base": []}]}

A file that has `from_base` lacks pieces: each entry says, from which piece on how many are those of which file of the
base, from which of its pieces on.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inferd.cli.bundles.faults import damaged, too_much, unknown
from inferd.errors import InvalidFieldError
from inferd.runtime.model_files import check_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.bundle_settings import Bundles

FORMAT: Final = "inferd bundle 1"
ADAPTER: Final = "adapter"
MOST_PIECE_BYTES: Final = 64 << 20
MOST_FILE_BYTES: Final = 1 << 50
DIGEST: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Run:
    """Pieces in a row that a bundle leaves to its base.

    Attributes:
        first: The first of them, in the file.
        count: How many.
        sha256: The base's file that has them.
        base_first: The first of them, in that.
    """

    first: int
    count: int
    sha256: str
    base_first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file of a model.

    Attributes:
        name: A label, and no path.
        sha256: Of all its bytes.
        size_bytes: How many it has.
        pieces: SHA-256 of each piece.
        setting: The setting that names it or its folder; "" for the model's own.
        from_base: The pieces that are not in the bundle.
    """

    name: str
    sha256: str
    size_bytes: int
    pieces: tuple[str, ...]
    setting: str = ""
    from_base: tuple[Run, ...] = ()

    def piece_size(self, number: int, piece_bytes: int) -> int:
        """Bytes of a piece."""
        return min(piece_bytes, self.size_bytes - number * piece_bytes)

    @property
    def left_out(self) -> frozenset[int]:
        """Numbers of the pieces that are not in the bundle."""
        return frozenset(number for run in self.from_base for number in range(run.first, run.first + run.count))

    def given_bytes(self, piece_bytes: int) -> int:
        """How many bytes of it the bundle has."""
        return self.size_bytes - sum(self.piece_size(number, piece_bytes) for number in self.left_out)

    @property
    def entry(self) -> str:
        """Its name in the container."""
        folder = "pieces" if self.from_base else "files"
        return f"{folder}/{self.setting}/{self.name}" if self.setting else f"{folder}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a bundle of changes was made against.

    Attributes:
        name: Of its model.
        manifest: SHA-256 of its manifest.
    """

    name: str
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bundle says of its model.

    Attributes:
        name: Its name.
        backend: The backend that it ran on; another may load it.
        settings: Its settings, without those that name files.
        sampling: What its tasks take for fields that they leave unset, as JSON of `SamplingDefaults`.
        card: Name of the file that tells of it, for people; "" for none.
        left_out: Settings that name files of the host that it is from, and are not in the bundle.
        version: Its version there.
        time: When the bundle was made, ISO 8601.
    """

    name: str
    backend: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    left_out: tuple[str, ...] = ()
    version: int = 0
    time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of it.

    Attributes:
        model: What it is.
        piece_bytes: Of all pieces but the last of a file.
        files: In the order in which they follow.
        base: What must be there before; None for nothing.
    """

    model: Facts
    piece_bytes: int
    files: tuple[BundleFile, ...]
    base: Base | None = None

    def write(self) -> bytes:
        """As it is signed."""
        written = {"format": FORMAT, **asdict(self)}
        return json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def own(self, setting: str = "") -> tuple[BundleFile, ...]:
        """The files that a setting names; the model's own for ""."""
        return tuple(file for file in self.files if file.setting == setting)

    def places(self) -> Iterator[tuple[str, str, int]]:
        """Each piece that a kernel keeps: its digest, the digest of its file, and its number."""
        return ((piece, file.sha256, number) for file in self.own() for number, piece in enumerate(file.pieces))


def read_manifest(data: bytes, bounds: Bundles) -> Manifest:
    """The manifest of a bundle, every field checked.

    Raises:
        CommandError: It is none, or says what cannot be, or more than the bounds allow.
    """
    try:
        written = json.loads(data)
        if not isinstance(written, dict) or (kind := written.pop("format", None)) is None:
            raise ValueError("it has no format")  # noqa: TRY301 - all that is wrong is told in one place
        if kind != FORMAT:
            raise unknown(f"the bundle has format {str(kind)[:40]!r}, and this inferd reads {FORMAT!r}: update it")
        manifest = _read(written)
        _check(manifest, bounds)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidFieldError) as error:
        raise damaged(f"its manifest cannot be read ({error})", part="manifest.json") from None
    return manifest


def _read(written: dict[str, Any]) -> Manifest:
    base = written.pop("base")
    facts = dict(written.pop("model"))
    facts["left_out"] = tuple(map(str, facts["left_out"]))
    files = [dict(each) for each in written.pop("files")]
    for each in files:
        each["pieces"] = tuple(each["pieces"])
        each["from_base"] = tuple(Run(**run) for run in each["from_base"])
    return Manifest(
        model=Facts(**facts),
        files=tuple(BundleFile(**each) for each in files),
        base=None if base is None else Base(**base),
        **written,
    )


def _check(manifest: Manifest, bounds: Bundles) -> None:
    facts = manifest.model
    for value, kind in ((facts.name, str), (facts.backend, str), (facts.card, str), (facts.version, int)):
        _must(type(value) is kind, f"model has {value!r}")
    _must(isinstance(facts.sampling, dict), "model.sampling is no object")
    _must(
        isinstance(facts.settings, dict) and all(type(each) is str for each in facts.settings.values()),
        "model.settings are no texts",
    )
    _must(
        type(manifest.piece_bytes) is int and 1 <= manifest.piece_bytes <= MOST_PIECE_BYTES,
        f"piece_bytes is {manifest.piece_bytes!r}; it must be 1 to {MOST_PIECE_BYTES}",
    )
    if len(manifest.files) > bounds.files:
        raise too_much("bundles.files", len(manifest.files), bounds.files, "files")
    for file in manifest.files:
        _check_file(file, manifest)
    for setting in ("", *({ADAPTER} if manifest.own(ADAPTER) else ())):
        check_names([file.name for file in manifest.own(setting)])
    _must(all(file.setting in ("", ADAPTER) for file in manifest.files), "a file is of a setting that has no files")
    _must((*manifest.own(), *manifest.own(ADAPTER)) == manifest.files, "files of the model come behind its adapter's")
    if (total := sum(file.size_bytes for file in manifest.files)) > bounds.bundle_bytes:
        raise too_much("bundles.bundle_bytes", total, bounds.bundle_bytes, "bytes of files")


def _check_file(file: BundleFile, manifest: Manifest) -> None:
    named, size, piece_bytes = f"file {file.name!r}"[:100], file.size_bytes, manifest.piece_bytes
    _must(type(file.name) is str and type(file.setting) is str, f"{named} has no name")
    _must(type(size) is int and 1 <= size <= MOST_FILE_BYTES, f"{named} has size_bytes {size!r}")
    _must(len(file.pieces) == -(-size // piece_bytes), f"{named} has {len(file.pieces)} pieces")
    for digest in (file.sha256, *file.pieces, *(run.sha256 for run in file.from_base)):
        _must(type(digest) is str and DIGEST.fullmatch(digest) is not None, f"{named} has digest {str(digest)[:80]!r}")
    end = 0
    for run in file.from_base:
        _must(all(type(each) is int for each in (run.first, run.count, run.base_first)), f"{named} has no run")
        _must(end <= run.first and run.count >= 1 and run.base_first >= 0, f"{named} has runs in no order")
        end = run.first + run.count
    _must(end <= len(file.pieces), f"{named} has a run behind its end")
    _must(not file.from_base or manifest.base is not None, f"{named} is from a base, and there is none")


def _must(holds: bool, why: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise ValueError(why)
