"""Writes what an environment consists of as a CycloneDX document (JSON): `ENVIRONMENT/bin/python sbom.py NAME > FILE`.

Packages, versions, licences and who needs whom are what their metadata says. The same environment gives the same bytes:
the time is `SOURCE_DATE_EPOCH`, the serial number is made of the content. It needs the standard library and pip.
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from typing import Any

from pip._vendor.packaging.requirements import Requirement

SPECIFICATION = "1.6"


def purl(name: str, version: str) -> str:
    """The package URL of a package of the index for Python."""
    return f"pkg:pypi/{name}@{version}"


def normal(name: str) -> str:
    """A name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licenses_of(found: Distribution) -> list[dict[str, Any]]:
    """What a package says of its licence: an expression of SPDX, else the classifiers, else a short text."""
    told = found.metadata
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    kinds = [each for each in told.get_all("Classifier") or () if each.startswith("License ::")]
    names = [each.rpartition(" :: ")[2] for each in kinds]
    text = (told.get("License") or "").strip()
    if not names and text and "\n" not in text:
        names = [text]
    return [{"license": {"name": name}} for name in names]


def needs_of(found: Distribution, extras: set[str]) -> set[str]:
    """The names of what a package needs here, with some of its extras."""
    needed = set()
    for line in found.requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            needed.add(normal(wanted.name))
    return needed


def document(root: str, extras: set[str]) -> dict[str, Any]:
    """The document about one package of this environment and all that it needs.

    Raises:
        KeyError: It is not installed.
    """
    here = {normal(each.metadata["Name"]): each for each in distributions()}
    versions = {name: each.version for name, each in here.items()}
    reached, left = {root: needs_of(here[root], extras)}, [root]
    while left:
        for name in sorted(reached[left.pop()]):
            if name in here and name not in reached:
                reached[name] = needs_of(here[name], set())
                left.append(name)
    components = [component(name, here[name]) for name in sorted(reached) if name != root]
    dependencies = [
        {
            "ref": purl(name, versions[name]),
            "dependsOn": [purl(each, versions[each]) for each in sorted(needed) if each in reached],
        }
        for name, needed in sorted(reached.items())
    ]
    told = {"components": components, "dependencies": dependencies}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([purl(root, versions[root]), told], sort_keys=True))
    time = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    about = {"timestamp": time.isoformat().replace("+00:00", "Z"), "component": component(root, here[root])}
    about["component"]["type"] = "application"
    head = {"bomFormat": "CycloneDX", "specVersion": SPECIFICATION, "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return {**head, "metadata": about, **told}


def component(name: str, found: Distribution) -> dict[str, Any]:
    """A package, as the document has it."""
    told = {"type": "library", "name": name, "version": found.version}
    told |= {"bom-ref": purl(name, found.version), "purl": purl(name, found.version)}
    licenses = licenses_of(found)
    return told | ({"licenses": licenses} if licenses else {})


if __name__ == "__main__":
    wanted = Requirement(sys.argv[1])
    sys.stdout.write(json.dumps(document(normal(wanted.name), set(wanted.extras)), indent=1, sort_keys=True) + "\n")
