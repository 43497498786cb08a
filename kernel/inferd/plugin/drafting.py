"""A smaller model beside a language model, which guesses its next tokens: what backends with the setting do alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.plugin.backend import LoadError, Setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.resources import MemoryNeed
    from inferd.plugin.backend import BackendSpec, LoadedModel, LoadRequest, ReportProgress

DRAFT: Final = "draft"
DRAFT_SETTING: Final = Setting(
    name=DRAFT,
    kind="str",
    names_file=True,
    description="path of a smaller model with the same vocabulary, absolute for the kernel, that guesses next tokens,"
    " which one step then verifies: `draft_tokens` of them, 4 where that says nothing. Outputs stay the same",
)
DRAFTED: Final = 4
"""Tokens of a guess at most, where `draft_tokens` says nothing."""
_SAME: Final = ("max_sequences", "dtype", "compute", "isa", "threads")
"""Settings that it has as the model has them; all others are the backend's own."""
_POOL: Final = "kv_tokens"
"""The setting that names the size of a KV pool."""


def measure_both(request: LoadRequest, spec: BackendSpec, measure: Callable[[LoadRequest], MemoryNeed]) -> MemoryNeed:
    """What a model takes, and the one beside it, if its settings name one.

    Args:
        request: For the model.
        spec: Of the backend.
        measure: What one model takes.

    Raises:
        LoadError: As `measure`, or the model is computed by several processes.
    """
    draft = _draft_request(request, spec)
    if draft is None:
        return measure(request)
    _, taken = _divide(request, draft, measure)
    need = measure(_less(request, taken))
    return replace(
        need,
        weights_bytes=need.weights_bytes + taken.weights_bytes,
        kv_bytes=need.kv_bytes + taken.kv_bytes,
        workspace_bytes=need.workspace_bytes + taken.workspace_bytes,
        paged_bytes=need.paged_bytes + taken.paged_bytes,
    )


def load_both(
    request: LoadRequest,
    spec: BackendSpec,
    measure: Callable[[LoadRequest], MemoryNeed],
    load: Callable[[LoadRequest, ReportProgress], LoadedModel],
    progress: ReportProgress,
) -> LoadedModel:
    """A model, and the one beside it, if its settings name one.

    Args:
        request: For the model.
        spec: Of the backend.
        measure: What one model takes.
        load: Loads one.
        progress: Told how far the model is.

    Raises:
        LoadError: As `load`; they have not the same vocabulary, or the other cannot guess.
    """
    draft = _draft_request(request, spec)
    if draft is None:
        return load(request, progress)
    draft, taken = _divide(request, draft, measure)
    model = load(_less(request, taken), progress)
    other: LoadedModel | None = None
    try:
        other = load(draft, lambda _: None)
        _check(model, other, request)
    except BaseException:
        model.session.close()
        if other is not None:
            other.session.close()
        raise
    return replace(model, draft=other.session)


def _draft_request(request: LoadRequest, spec: BackendSpec) -> LoadRequest | None:
    """What to load beside a model; None where its settings name nothing."""
    path = request.settings.get(DRAFT)
    if not path:
        return None
    if request.ranks:
        raise LoadError(
            f"{request.path}: setting {DRAFT!r} is set, and the model is computed by {len(request.ranks)} processes,"
            " for which nothing guesses: leave it out"
        )
    settings = {setting.name: setting.default for setting in spec.settings}
    settings |= {name: value for name, value in request.settings.items() if name in _SAME}
    return replace(request, path=Path(str(path)), settings=settings)


def _divide(
    request: LoadRequest, draft: LoadRequest, measure: Callable[[LoadRequest], MemoryNeed]
) -> tuple[LoadRequest, MemoryNeed]:
    """The request for the one beside a model, and what it takes: where both are too large, their pools are smaller.

    Both by the same share; but that of the model stays as it is where its settings name its size.
    """
    taken, need = _measure_draft(draft, measure), measure(request)
    over = taken.total_bytes + need.total_bytes - request.capacity_bytes
    if over <= 0:
        return draft, taken
    left = max(taken.kv_bytes + need.kv_bytes - over, 0)
    if request.settings.get(_POOL) is not None:
        own = max(left - need.kv_bytes, 0)
    else:
        own = left * taken.kv_bytes // max(taken.kv_bytes + need.kv_bytes, 1)
    draft = replace(draft, capacity_bytes=taken.total_bytes - taken.kv_bytes + own)
    return draft, _measure_draft(draft, measure)


def _measure_draft(draft: LoadRequest, measure: Callable[[LoadRequest], MemoryNeed]) -> MemoryNeed:
    """What the one beside the model takes; what is wrong with it is told with the setting that names it."""
    try:
        return measure(draft)
    except LoadError as error:
        raise LoadError(f"setting {DRAFT!r}: {error}") from error


def _less(request: LoadRequest, need: MemoryNeed) -> LoadRequest:
    """A request with that much less memory."""
    return replace(request, capacity_bytes=max(request.capacity_bytes - need.total_bytes, 0))


def _check(model: LoadedModel, draft: LoadedModel, request: LoadRequest) -> None:
    mine, other = model.session.limits, draft.session.limits
    why = ""
    if mine.vocabulary_size != other.vocabulary_size:
        why = f"has {other.vocabulary_size} tokens, and the model {mine.vocabulary_size}"
    elif mine.forward_only or mine.whole_prompts:
        why = "guesses for a model that takes no token back"
    elif other.forward_only or other.whole_prompts or other.window_blocks or other.border_tokens:
        why = f"is a {draft.description.architecture} that takes no token back, or has windows"
    if why:
        raise LoadError(f"{request.path}: what setting {DRAFT!r} names, {request.settings[DRAFT]}, {why}: take another")
