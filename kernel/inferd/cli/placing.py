"""Which hosts a model may use, as options of commands say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd_api.v1.model_pb2 import PLACEMENT_STRATEGY_PACK, PLACEMENT_STRATEGY_SPREAD, PlacementRules

if TYPE_CHECKING:
    from collections.abc import Mapping


def rules_of(
    selector: Mapping[str, str], *, packs: bool | None, apart: bool | None, before: PlacementRules | None = None
) -> PlacementRules | None:
    """Rules as they were before, otherwise in what is given; None where nothing is."""
    if not selector and packs is None and apart is None:
        return None
    rules = PlacementRules()
    if before is not None:
        rules.CopyFrom(before)
    for key, value in selector.items():
        if value:
            rules.selector[key] = value
        else:
            rules.selector.pop(key, None)
    if packs is not None:
        rules.strategy = PLACEMENT_STRATEGY_PACK if packs else PLACEMENT_STRATEGY_SPREAD
    rules.apart = rules.apart if apart is None else apart
    return rules


def rules_text(rules: PlacementRules) -> str:
    """Rules for people: "zone=a, packed, apart"; "" for none."""
    words = [f"{key}={value}" for key, value in sorted(rules.selector.items())]
    words += ["packed"] if rules.strategy == PLACEMENT_STRATEGY_PACK else []
    words += ["no two on one host"] if rules.apart else []
    return ", ".join(words)
