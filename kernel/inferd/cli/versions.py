"""`inferd models set`, `versions`, `rollback` and `add`: models and what their names stand for."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.amounts import counted, size, span
from inferd.cli.changing import Listing
from inferd.cli.fetches import is_fetched, name_of, wait_for
from inferd.cli.kernel import connected
from inferd.cli.models import pairs
from inferd.cli.output import CommandError
from inferd.cli.placing import rules_text
from inferd.cli.plain import plain
from inferd.cli.plan import explain
from inferd.cli.rollout import leaving
from inferd.cli.wanted import no_model, not_known
from inferd.content import PREFIX
from inferd.runtime.library import Library
from inferd_api.v1.model_pb2 import (
    ROLLOUT_WAY_BESIDE,
    ROLLOUT_WAY_DRAINS,
    ROLLOUT_WAY_NO_ROOM,
    VERSION_STATE_CANARY,
    VERSION_STATE_RETIRED,
    ModelVersion,
    VersionState,
)
from inferd_client.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd_api.v1.model_pb2 import Model, PlacementRules
    from inferd_api.v1.rollout_pb2 import Probe
    from inferd_client import Client

SAID = {"pin": "pinned", "warm": "loaded at the start"}
SHOWN_DIGITS = 12  # of a digest, in a table
WAYS = {ROLLOUT_WAY_BESIDE: "beside what serves", ROLLOUT_WAY_DRAINS: "after draining"}


def set_model(
    output: Output,
    address: str,
    wanted: Wanted,
    *,
    source: Wanted | None,
    unset: Sequence[str],
    bounds: Mapping[str, int | None],
    terms: Mapping[str, Any],
    rules: Callable[..., PlacementRules | None],
    traits: Mapping[str, Any],
    data_dir: Callable[[], Path],
    dry_run: bool,
) -> None:
    """Give a model another version and wait until it serves; or tell how that would go.

    Raises:
        CommandError: There is no such source.
        typer.Exit: It would not fit: exit code 1.
    """
    changes: dict[str, Any] = {
        "source": "" if source is None else _path(source, data_dir),
        "backend": wanted.backend,
        "device": wanted.device,
        "settings": {**wanted.settings, **dict.fromkeys(unset, "")},
        **bounds,
    }
    given = [
        *bounds.values(),
        *(value or None for value in changes.values()),
        *traits.values(),
        terms["probe"],
        rules(),
    ]
    if all(value in (None, {}, "") for value in given):
        if terms["canary"] is not None:
            message = (
                "it says by which steps a new version comes, and nothing is to be otherwise; give NAME=VALUE, --source,"
                " or another option beside it"
            )
            raise typer.BadParameter(message, param_hint="--canary")
        raise typer.BadParameter("nothing is to be otherwise; give NAME=VALUE, --source, or another option")
    with connected(address) as client:
        if rules() is not None:
            changes["placement"] = rules(before=client.get_model(wanted.name).placement)
        if dry_run:
            _tell_plan(output, client, wanted.name, {**changes, **terms})
        else:
            _update(output, client, wanted.name, {**changes, **terms, **traits})


def give_alias(output: Output, address: str, alias: str, name: str) -> None:
    """Have another name stand for a model."""
    with connected(address) as client:
        before = _stood_for(client, alias)
        model = client.update_model(name, add_aliases=[alias])
    moved = f", no longer for {before}" if before not in (None, model.name) else ""
    _tell(output, model, f"{alias} stands for {model.name} from now on{moved}")


def remove_alias(output: Output, address: str, alias: str) -> None:
    """Have another name stand for nothing.

    Raises:
        CommandError: It is no alias.
    """
    with connected(address) as client:
        name = client.get_model(alias).name
        if name == alias:
            raise CommandError(f"{alias} is the name of a model, and no alias", reason="MODEL_EXISTS")
        model = client.update_model(name, remove_aliases=[alias])
    _tell(output, model, f"{alias} stands for nothing any more; it stood for {name}")


def tell_alias(output: Output, address: str, alias: str) -> None:
    """Tell which model a name stands for."""
    with connected(address) as client:
        model = client.get_model(alias)
    _tell(output, model, model.name)


def _stood_for(client: Client, alias: str) -> str | None:
    """The model that an alias stands for; None for a name that is none."""
    with suppress(ModelNotFoundError):
        model = client.get_model(alias)
        return model.name if model.name != alias else None
    return None


def rollback(
    output: Output, address: str, name: str, number: int | None, *, terms: Mapping[str, Any], dry_run: bool
) -> None:
    """Roll out the version that served before again, or a given one.

    Raises:
        CommandError: None served before.
        typer.Exit: It would not fit: exit code 1.
    """
    with connected(address) as client:
        if number is None:
            number = _before(name, client.list_model_versions(name))
        if dry_run:
            _tell_plan(output, client, name, {"version": number, **terms})
        else:
            _update(output, client, name, {"version": number, **terms})


VERSIONS = ("VERSION", "STATE", "SOURCE", "BACKEND", "SETTINGS", "CHANGED", "MADE", "BY", "WHY")


def list_versions(output: Output, address: str, name: str, *, watch: bool = False) -> None:
    """List the versions of a model that are kept, or follow them as they are rolled out."""
    listing = Listing(
        columns=VERSIONS,
        row=_version_row,
        document=lambda pair: plain(pair[0]),
        empty=f"{name} has no versions",
        gives_way="WHY",
        goes=("SOURCE", "BACKEND", "SETTINGS", "BY", "MADE"),
        moving=("MADE",),
    )

    def read() -> list[tuple[ModelVersion, ModelVersion | None]]:
        versions = client.list_model_versions(name)
        return list(zip_longest(versions, versions[1:]))

    with connected(address) as client:
        listing.show(output, read, name="versions", watch=watch)


def _version_row(pair: tuple[ModelVersion, ModelVersion | None]) -> tuple[str, ...]:
    """A version, and the one that was made before it; see `VERSIONS`."""
    each, before = pair
    return (
        str(each.number),
        VersionState.Name(each.state).removeprefix("VERSION_STATE_").lower(),
        each.source,
        each.backend,
        pairs(each.settings),
        _changed(each, before),
        f"{span(max(0.0, time.time() - each.create_time.ToSeconds()))} ago",
        each.requested_by,
        each.error.message or _told_steps(each),
    )


def _changed(version: ModelVersion, before: ModelVersion | None) -> str:
    """What is otherwise of a version than of the one listed before it was made; "" where there is none."""
    if before is None:
        return ""
    changed = [each for each in ("source", "backend", "device") if getattr(version, each) != getattr(before, each)]
    settings = {*version.settings, *before.settings}
    changed += sorted(each for each in settings if version.settings.get(each) != before.settings.get(each))
    if version.placement != before.placement:
        changed.append(f"placement {rules_text(version.placement) or 'anywhere'}")
    if version.sampling_defaults != before.sampling_defaults:
        changed.append("sampling defaults")
    if (pinned := version.pinned_digest) != before.pinned_digest:
        changed.append(f"digest {pinned.removeprefix(PREFIX)[:SHOWN_DIGITS]} is pinned" if pinned else "no digest")
    if "source" not in changed and _holds_other(version, before):
        changed.append("what its files hold")
    return ", ".join(changed) or "nothing"


def _holds_other(version: ModelVersion, before: ModelVersion) -> bool:
    """Whether the files of a version hold something else than those of another one, as far as that is known."""
    now, was = version.content_digest, before.content_digest
    return version.size_bytes != before.size_bytes or bool(now and was and now != was)


def _told_steps(version: ModelVersion) -> str:
    """How far a version has come by steps; "" where it is not about to."""
    at = version.canary
    if version.state != VERSION_STATE_CANARY:
        return ""
    failed = f", {at.failed_tasks} failed" if at.failed_tasks else ""
    return f"step {at.step} of {at.steps}: {at.share:.4g} of new tasks, {at.tasks} of {at.least_tasks} done{failed}"


def add(
    output: Output,
    address: str,
    wanted: Wanted,
    *,
    name: str,
    bounds: Mapping[str, int | None],
    traits: Mapping[str, Any],
) -> None:
    """Make a file or a folder of the kernel's host known to it.

    Raises:
        CommandError: There is no model at the path.
    """
    words: dict[str, Any] = {
        "backend": wanted.backend,
        "device": wanted.device,
        "settings": wanted.settings,
        "min_instances": bounds["min_instances"],
        "max_instances": bounds["max_instances"],
        **traits,
    }
    if is_fetched(wanted.name):
        name = name or name_of(wanted.name)
        with connected(address) as client:  # for its errors, too
            model = wait_for(output, client.address, name, lambda other: other.create_model(name, wanted.name, **words))
        _tell(output, model, f"{model.name} is fetched ({size(model.size_bytes)}); it loads at its first task")
        return
    path = wanted.host_path()
    if path is None:
        raise CommandError(f"there is no file and no model folder {wanted.name}", reason="MODEL_NOT_FOUND")
    with connected(address) as client:
        model = client.create_model(name or path.stem, str(path), **words)
    _tell(output, model, f"{model.name} is known; it loads at its first task, or with: inferd load {model.name}")


def _path(source: Wanted, data_dir: Callable[[], Path]) -> str:
    """Where a source is: a file, a folder, a model of the library, blobs of the kernel, or what it fetches."""
    if source.name.startswith("blob:") or is_fetched(source.name):
        return source.name
    if (path := source.host_path()) is not None:
        return str(path)
    library = Library(data_dir())
    if (manifest := library.find(source.name)) is None:
        raise not_known(library, source.name, no_model(source.name))
    return str(library.path(manifest))


def _before(name: str, versions: Sequence[ModelVersion]) -> int:
    """The version that served last before the one that does."""
    served = [each for each in versions if each.state == VERSION_STATE_RETIRED and each.HasField("serve_time")]
    if not served:
        raise CommandError(f"no version of {name} that is kept served before this one", reason="VERSION_NOT_FOUND")
    return max(served, key=lambda each: each.serve_time.ToNanoseconds()).number


def _update(output: Output, client: Client, name: str, changes: Mapping[str, Any]) -> None:
    before, began = client.get_model(name), time.monotonic()
    with leaving(output, client, name):
        if is_fetched(changes.get("source", "")):
            model = wait_for(output, client.address, name, lambda another: another.update_model(name, **changes))
        else:
            with output.status(f"rolling out {name}"):
                model = client.update_model(name, **changes)
    took = span(time.monotonic() - began)
    if model.version == before.version:
        changed = [*_told_probe(before.probe, changes.get("probe")), *_told_changes(before, model)]
        nothing = f"nothing changes; version {model.version} is that already"
        said = f"{name}: {', '.join(changed)}, no new version needed" if changed else f"{name}: {nothing}"
    else:
        said = f"version {model.version} of {name} serves in place of {before.version}, after {took}: {model.source}"
    _tell(output, model, said)


def _told_probe(before: Probe, given: Probe | None) -> list[str]:
    """What is otherwise of the prompts that new versions have to answer first."""
    if given is None or given == before:
        return []
    if not given.prompts:
        return ["its probe is gone"]
    said = "its probe is replaced" if before.prompts else "it has a probe now"
    return [f"{said} ({counted(len(given.prompts), 'prompt')})"]


def _told_changes(before: Model, after: Model) -> list[str]:
    """What is otherwise of a model that needed no new version for it."""
    was, now = before.settings, after.settings
    changed = [
        f"{setting}={now[setting]}" if setting in now else f"{setting} at its default"
        for setting in sorted({*was, *now})
        if was.get(setting) != now.get(setting)
    ]
    bounds = [(bound, getattr(before, bound), getattr(after, bound)) for bound in ("min_instances", "max_instances")]
    changed += [f"{bound}={value}" for bound, old, value in bounds if value != old]
    if after.labels != before.labels:
        changed.append(f"labels {pairs(after.labels) or 'none'}")
    for each, said in SAID.items():
        if (now_is := getattr(after, each)) != getattr(before, each):
            changed.append(said if now_is else f"not {said}")
    return changed


def _tell(output: Output, model: Model, said: str) -> None:
    if output.json:
        output.document(plain(model))
    else:
        output.text(said)


def _tell_plan(output: Output, client: Client, name: str, changes: Mapping[str, Any]) -> None:
    found = client.plan_update(name, **changes)
    if output.json:
        output.document(plain(found))
    else:
        way = WAYS.get(found.way, "")
        for line in [
            f"{way}: {found.reason}" if way else found.reason,
            *(explain(found.load)[1:] if found.HasField("load") else ()),
        ]:
            output.text(line)
    if found.way == ROLLOUT_WAY_NO_ROOM:
        raise typer.Exit(1)
