"""What an agent reserves of its node, in Ray's words; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.ray.values import Node
    from inferd.ray_settings import Ray

CPU, GPU, MEMORY = "CPU", "GPU", "memory"
SETTINGS = {CPU: "ray.cpus", GPU: "ray.gpus", MEMORY: "ray.memory_bytes"}


def bundle_of(node: Node, settings: Ray) -> dict[str, float]:
    """What the agent of a node reserves: as configured, else all that the node has."""
    given = {CPU: settings.cpus, GPU: settings.gpus, MEMORY: settings.memory_bytes}
    bundle = {name: float(node.resources.get(name, 0) if amount is None else amount) for name, amount in given.items()}
    if settings.resource:
        bundle[settings.resource] = 1.0
    return {name: amount for name, amount in bundle.items() if amount}


def lacking(node: Node, bundle: Mapping[str, float]) -> str:
    """What a node has too little of for an agent, with both numbers; "" where it has all."""
    for name, amount in bundle.items():
        has = node.resources.get(name, 0.0)
        if has < amount:
            return f"it has {has:g} of {name}, and {SETTINGS.get(name, 'ray.resource')} asks for {amount:g}"
    return "" if bundle else "it has no CPU, no GPU and no memory to reserve"


def asked_of(settings: Ray, bundles: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What Ray's autoscaler is asked for, for one node: as configured; what is not is that of the least node known.

    Args:
        settings: What is configured.
        bundles: What agents reserve, by node.
    """
    given = {CPU: settings.cpus, GPU: settings.gpus, MEMORY: settings.memory_bytes}
    asked: dict[str, float] = {}
    for name, amount in given.items():
        known = [bundle[name] for bundle in bundles.values() if bundle.get(name)]
        asked[name] = float(amount) if amount is not None else min(known, default=0.0)
    if settings.resource:
        asked[settings.resource] = 1.0
    asked = {name: amount for name, amount in asked.items() if amount}
    return asked or {CPU: 1.0}
