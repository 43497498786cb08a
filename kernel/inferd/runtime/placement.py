"""From a client's words about a model to where and by what it is loaded. Nothing of the file is parsed here."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from inferd.content import DIGEST_FORM, PIN
from inferd.core.ids import DeviceId, ModelName
from inferd.core.model import ModelSpec
from inferd.core.placement_rules import ANYWHERE, PlacementRules
from inferd.core.sampling_defaults import NO_DEFAULTS, SamplingDefaults
from inferd.errors import InferdError, InvalidFieldError, present
from inferd.plugin.backend import BackendSpec, Setting, SettingValue, check_names, read_settings
from inferd.plugin.ranks import MOST_RANKS
from inferd.plugin.recipe_file import find_recipe
from inferd.plugin.registry import WORDS, BackendReport, alternatives, choose
from inferd.runtime.catalogue import catalogue_sampling
from inferd.runtime.formats import file_format, folder_format, refuse_weights
from inferd.runtime.sources import Roots, check_named, files_of, find_source
from inferd.sandbox.state import Access

ENGINE_SETTINGS = (  # those that any model takes besides its backend's, because the engine is ours
    Setting(
        name="draft_tokens",
        kind="int",
        minimum=0,
        maximum=64,
        description="most tokens guessed in a step; 0 for none, default: workers.draft_tokens of the kernel",
    ),
    Setting(
        name="queued_tasks",
        kind="int",
        minimum=1,
        maximum=1_000_000,
        description="tasks that wait for the model; default and most: scheduler.model_queued of the kernel",
    ),
    Setting(
        name="idle_s",
        kind="int",
        minimum=0,
        maximum=1_000_000,
        description="seconds without a task until it is unloaded; 0: never, default: elastic.idle_s of the kernel",
    ),
    Setting(
        name="prefix_keep_bytes",
        kind="int",
        minimum=0,
        maximum=1 << 50,
        description="bytes of its prefix cache that are kept when it is unloaded; default and most:"
        " prefix.keep_bytes of the kernel",
    ),
    Setting(
        name="devices",
        kind="int",
        minimum=1,
        maximum=MOST_RANKS,
        default=1,
        description="devices of one host over which each of its instances is spread, where its backend can",
    ),
)


def place(
    reports: Sequence[BackendReport],
    *,
    name: str,
    source: str,
    backend: str = "",
    device: str = "",
    settings: Mapping[str, str] | None = None,
    unset: Collection[str] = (),
    min_instances: int = 0,
    max_instances: int = 1,
    sampling: SamplingDefaults = NO_DEFAULTS,
    path: Path | None = None,
    roots: Roots | None = None,
    accepted: Mapping[str, str] | None = None,
    tenant: str = "",
    digest: str = "",
    links: Mapping[str, str] | None = None,
    pinned: bool = True,
    rules: PlacementRules = ANYWHERE,
) -> ModelSpec:
    """Find the model's file or folder, choose its backend and the devices that it may use, and check its settings.

    `sampling` are defaults of its tasks. Of a model of blobs, which are those of `tenant`, `path` is where they are;
    any other is within `roots`, if there are some, and so is what settings name that are not among the `accepted`.
    What the links in accepted ones led to are `links`. Of settings that are `unset` the names alone are checked.
    Whether its files have the `digest` is seen at each load. A `device` that is not `pinned` is the one that it had by
    default; far hosts may have others of its kind.

    Raises:
        InvalidFieldError: The source is no file and no model folder, or a setting is wrong.
        PermissionDeniedError: It is not within `roots`.
        BackendNotFoundError: No such backend.
        BackendUnavailableError: No backend can load it; each is named with its reason.
    """
    if path is None:
        path = find_source(source, roots)
    kind = _format(path)
    loaded = {each for report in reports if report.spec is not None for each in report.spec.formats}
    if kind not in loaded and path.is_file() and (why := refuse_weights(path)):
        raise InvalidFieldError(f"source {why}", field="model.source")
    choice = choose(reports, format=kind, requested=backend, device=device)
    spec = present(choice.report.spec)  # `choose` gives READY backends only, and they have one
    try:
        known = replace(spec, settings=(*spec.settings, *ENGINE_SETTINGS, *_pins_of(spec)))
        check_names(known, unset)
        values = read_settings(known, settings or {})
        _check_pins(spec, values)
    except ValueError as error:
        raise InvalidFieldError(str(error), field="model.settings") from None
    seen = {} if roots is None else dict(links or {})
    for each in spec.settings if roots is not None else ():
        if each.names_file and (value := values[each.name]) and (accepted or {}).get(each.name) != value:
            seen |= check_named(each.name, str(value), present(roots), written=each.written)
    drafts, queued, idle_s, keep_bytes, span = (values.pop(setting.name) for setting in ENGINE_SETTINGS)
    size_bytes, version = stat_files(path)
    others = alternatives(reports, choice, format=kind)
    return ModelSpec(
        name=ModelName(name),
        source=source,
        path=str(path),
        format=kind,
        size_bytes=size_bytes,
        backend=spec.name,
        backend_reason=choice.reason,
        alternatives=tuple(others),
        listed=tuple(others.values()),
        loader=spec.loader,
        devices=tuple(map(DeviceId, choice.device_ids)),
        pinned=bool(device) and pinned,
        placement=rules,
        settings=dict(settings or {}),
        values=values,
        draft_tokens=None if drafts is None else int(drafts),
        queued_tasks=None if queued is None else int(queued),
        idle_s=None if idle_s is None else int(idle_s),
        prefix_keep_bytes=None if keep_bytes is None else int(keep_bytes),
        min_instances=min_instances,
        max_instances=max_instances,
        sampling=sampling,
        catalogue_sampling=catalogue_sampling(path, size_bytes),
        file_version=blobs_version(source) if tenant else version,
        tenant=tenant,
        digest=digest,
        links=seen,
        access=_access(spec, values),
        span=_span(spec, values, span),
    )


def _span(spec: BackendSpec, values: Mapping[str, SettingValue | None], asked: SettingValue | None) -> int:
    """Over how many devices each instance is spread."""
    span = int(asked or 1)
    if span > 1 and not spec.spans:
        raise InvalidFieldError(
            f"setting 'devices' is {span}, and backend {spec.name!r} computes a model on one device",
            field="model.settings",
        )
    if span > 1 and values.get("ranks") not in (None, span):
        raise InvalidFieldError(
            f"setting 'devices' is {span} and setting 'ranks' is {values['ranks']}: there is one rank on each device;"
            " leave 'ranks' out",
            field="model.settings",
        )
    return span


def _pins_of(spec: BackendSpec) -> list[Setting]:
    """Settings that say what the files have to hold that others name, and that are read."""
    described = "what the file or folder has to hold that {} names: sha256:…, seen to before each load"
    return [
        Setting(name=each.name + PIN, kind="str", description=described.format(each.name))
        for each in spec.settings
        if each.names_file and not each.written
    ]


def _check_pins(spec: BackendSpec, values: dict[str, SettingValue | None]) -> None:
    """See that what is pinned can be; leave out what is not.

    Raises:
        ValueError: It is no digest, or of no file.
    """
    for each in _pins_of(spec):
        if (pinned := values[each.name]) is None:
            del values[each.name]
        elif not DIGEST_FORM.fullmatch(str(pinned)):
            raise ValueError(f"setting {each.name!r} is {str(pinned)[:80]!r}; it must be sha256: and 64 of 0-9 and a-f")
        elif not values[each.name.removesuffix(PIN)]:
            of = each.name.removesuffix(PIN)
            raise ValueError(f"setting {each.name!r} is given and {of!r}, whose file it is about, is not; give both")


def _access(spec: BackendSpec, values: Mapping[str, SettingValue | None]) -> Access:
    """What its backend asks for, and what its settings name."""
    named = [each for each in spec.settings if each.names_file and values.get(each.name)]
    reads, writes = ([str(values[each.name]) for each in named if each.written is written] for written in (False, True))
    return replace(spec.access, reads=(*spec.access.reads, *reads, *writes), writes=(*spec.access.writes, *writes))


def blobs_version(source: str) -> str:
    """What differs once the files of a model of blobs are others: its source says what they are, wherever they lie."""
    return hashlib.sha256(source.encode()).hexdigest()


def advise(error: InferdError, spec: ModelSpec) -> InferdError:
    """Add to why a model cannot be loaded what its worker does not know; other errors stay as they are.

    To a refusal by the chosen backend, which others may run the model: its "unsupported" is the architecture of the
    model, "*" where that is not known. To files that hold something else than is pinned, whose they are and what helps.
    """
    if pinned := error.metadata.get("pinned"):
        found = error.metadata.get("found", "")
        error.message = (
            f"the files of model {spec.name!r}, {spec.source}, have the digest {found}, and its pinned_digest is"
            f" {pinned}; put the files there that have it or, if these are the right ones, pin them: inferd models set"
            f" {spec.name} --digest {found}"
        )
        error.args = (error.message,)
    architecture = error.metadata.pop("unsupported", "")
    if architecture and spec.alternatives:
        lists = spec.listed or ((),) * len(spec.alternatives)
        may = [
            name
            for name, listed in zip(spec.alternatives, lists, strict=True)
            if not listed or architecture == "*" or architecture in listed
        ]
        others = ", ".join(may)
        hint = f"No other backend that is known here runs {architecture!r}"
        if may:
            error.metadata["backends"] = others
            kind = WORDS.get(spec.format, f"{spec.format} files")
            hint = f"Other backends that load {kind}: {others}; choose one with --backend, or `Model.backend`"
        error.message = f"{error.message}. {hint}"
        error.args = (error.message,)
    return error


def _format(path: Path) -> str:
    try:
        return folder_format(path) or file_format(path)
    except OSError as error:
        raise InvalidFieldError(f"{path} cannot be read: {error.strerror}", field="model.source") from None


def stat_files(path: Path) -> tuple[int, str]:
    """The size of a file, or of a folder's files, in bytes, and what differs once any of them has changed.

    Raises:
        InvalidFieldError: One cannot be read.
    """
    try:
        facts = [(file.name, file.stat()) for file in files_of(path)]
        recipe = [] if path.is_dir() or not (beside := find_recipe(path)).is_file() else [(beside.name, beside.stat())]
    except OSError as error:
        raise InvalidFieldError(f"{path} cannot be read: {error.strerror}", field="model.source") from None
    version = [f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for name, stat in [*facts, *recipe]]
    written = "\n".join(version).encode("utf-8", "surrogateescape")  # a file may have any name
    return sum(stat.st_size for _, stat in facts), hashlib.sha256(written).hexdigest()
