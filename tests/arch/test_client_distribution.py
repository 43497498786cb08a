"""The Python client as a distribution of its own, beside that of the kernel, which has the same files."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def project(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return read


def test_both_distributions_agree() -> None:
    """The client has the kernel's version and Python, and needs nothing that the kernel does not need, alike."""
    kernel, client = (project(path) for path in (ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml"))
    assert (client["version"], client["requires-python"]) == (kernel["version"], kernel["requires-python"])
    extras = [need for needs in client["optional-dependencies"].values() for need in needs]
    assert {*client["dependencies"], *extras} <= {*kernel["dependencies"]}
    assert all(need.startswith(("grpcio", "protobuf", "googleapis-common-protos")) for need in client["dependencies"])


def test_the_node_package_has_the_version_of_the_kernel() -> None:
    """The package of Node is told apart by the version of the kernel that it was made beside."""
    version = project(ROOT / "pyproject.toml")["version"]
    assert f'"version": "{version}",' in (ROOT / "clients/node/package.json").read_text()
