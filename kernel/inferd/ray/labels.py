"""Labels of hosts, made of what Ray says of their nodes; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.ray.values import Node

RESOURCE = "resource:"
FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")
MOST_VALUE = 63


def labels_of(node: Node, sources: Mapping[str, str]) -> dict[str, str]:
    """The labels of a node's host: those whose source the node has.

    Args:
        node: The node.
        sources: For each label a label of Ray, `resource:NAME` (how much of it), or `resource:NAME:` (what follows in
            the name of a resource, as Ray names types of accelerators).
    """
    found = {name: _value(node, source) for name, source in sources.items()}
    return {name: FORBIDDEN.sub("-", value)[:MOST_VALUE] for name, value in found.items() if value}


def _value(node: Node, source: str) -> str:
    if not source.startswith(RESOURCE):
        return node.labels.get(source, "")
    name = source.removeprefix(RESOURCE)
    if name.endswith(":"):
        return next((each.removeprefix(name) for each in sorted(node.resources) if each.startswith(name)), "")
    amount = node.resources.get(name)
    return "" if amount is None else f"{amount:g}"
