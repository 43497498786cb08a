"""Who imports whom, and what importing a package loads."""

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import inferd.plugin

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "onnxruntime", "transformers")
MODEL_LIBRARIES = ("numpy", "tokenizers", "jinja2")
SERVING = ("inferd.server", "inferd.serving", "inferd.core.machine", "inferd.runtime.driver", "prometheus_client")
OF_KERNELS = ("inferd.server", "inferd.config", "pydantic", "structlog", "prometheus_client")
PLUGINS = sorted(p.value for p in metadata.distribution("inferd").entry_points.select(group="inferd.backends"))


def test_contracts() -> None:
    """Every import between packages is one that the layout permits; the rules are in pyproject.toml."""
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("inferd_api.v1.task_service_pb2_grpc", (*FRAMEWORKS, *MODEL_LIBRARIES, "inferd")),
        ("inferd_client", (*FRAMEWORKS, *MODEL_LIBRARIES, "inferd")),
        ("inferd.cli.main, inferd.cli.run", (*FRAMEWORKS, *MODEL_LIBRARIES, *OF_KERNELS)),
        ("inferd.cli.serve", (*FRAMEWORKS, *MODEL_LIBRARIES, "inferd.cli.http", "inferd.cli.ray_beside", "inferd.ray")),
        *((f"inferd.cli.{each}", (*FRAMEWORKS, *MODEL_LIBRARIES, *SERVING)) for each in ("host", "http", "ray")),
        ("inferd.testing.plugin", (*FRAMEWORKS, *MODEL_LIBRARIES)),
        *((f"{each}.probing", (*FRAMEWORKS, *MODEL_LIBRARIES)) for each in ("inferd_cpu", "inferd_heads")),
        ("inferd.cli.main, inferd.cli.private", (*FRAMEWORKS, *MODEL_LIBRARIES, *OF_KERNELS, "grpc")),
        ("inferd.worker.process", (*FRAMEWORKS, "inferd.engine.token.loop", "inferd.engine.training.loop")),
        ("inferd.engine.cells.render", (*FRAMEWORKS, "numpy", "tokenizers", "inferd.plugin.backend", "pluggy")),
        *((plugin, (*FRAMEWORKS, *MODEL_LIBRARIES)) for plugin in PLUGINS),
    ],
)
def test_import_is_light(module: str, unwanted: tuple[str, ...]) -> None:
    """The wire, the client, the kernel and plugins load no framework and no library that computes; nor do cells.

    What `inferd run` waits for has nothing of a kernel, and a kernel nothing of what it is not asked for. Agents and
    gateways, which streams wait for when they are started again, do not load what serves.
    """
    code = f"import sys, {module}; print(*(set(sys.modules) & set({unwanted})))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), f"importing {module} loads {result.stdout}"


def test_the_interface_of_backends_is_what_type_checkers_see() -> None:
    """Each public name is that of the module which it is imported from for type checkers."""
    tree = ast.parse(Path(inferd.plugin.__file__).read_text())
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    seen = {alias.name: f"{each.module}" for each in imports for alias in each.names if "inferd" in f"{each.module}"}
    assert sorted(seen) == sorted(inferd.plugin.__all__)
    for name, module in seen.items():
        assert getattr(inferd.plugin, name) is getattr(import_module(module), name)


def test_services_read_through_views() -> None:
    """Services and the command line see the core through its views: none of them reads a book of the machine."""
    folders = ("kernel/inferd/services", "kernel/inferd/cli")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if ".machine." in path.read_text()]
    assert not found
