"""The manifests of `deploy/`: what Kubernetes takes, and what they promise of their pods."""

import ast
import json
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from inferd.cli.manual import program
from inferd.config import Settings

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: the manifests are not read")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

DEPLOY = Path(__file__).parents[2] / "deploy"
VERSION = "1.37"
FOREIGN = "ray.io/v1"


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(DEPLOY.glob("kube*/*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            yield f"{path.stem}-{each['kind']}-{each['metadata']['name']}", each


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """All specs of pods in an object: what has containers."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for each in value.values():
            yield from pods(each)
    elif isinstance(value, list):
        for each in value:
            yield from pods(each)


ALL = list(objects())
PODS = [(name, pod) for name, each in ALL for pod in pods(each)]


@pytest.mark.parametrize("found", [pytest.param(each, id=name) for name, each in ALL if each["apiVersion"] != FOREIGN])
def test_kubernetes_takes_it(found: dict[str, Any]) -> None:
    """Each object is one by the schema of Kubernetes, with no field that it does not know."""
    kubernetes_validate.validate(found, VERSION, strict=True)


@pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in PODS])
def test_its_pods_are_pods_without_rights(pod: dict[str, Any]) -> None:
    """Each pod, those of Ray's resources too, is one by the schema, runs as no root, and gains no right."""
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": pod}, VERSION, strict=True)
    own = pod["securityContext"]
    assert own["runAsNonRoot"]
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        wall = container["securityContext"]
        assert wall["capabilities"] == {"drop": ["ALL"]}
        assert wall["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"]
        mounted = {each["name"] for each in container.get("volumeMounts", ())}
        assert mounted <= {each["name"] for each in pod.get("volumes", ())}


def test_the_configurations_are_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel and an agent take the configurations that the manifests give them, with what Ray needs besides."""
    given = [text for _, each in ALL if each["kind"] == "ConfigMap" for text in each["data"].values()]
    assert len(given) == 2
    ray = (DEPLOY / "kuberay" / "configuration.toml").read_text()
    for number, text in enumerate([*given, "\n".join((given[0], ray))]):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        tomllib.loads(text)
        monkeypatch.setenv("INFERD_CONFIG", str(file))
        settings = Settings()
    assert settings.ray.resource == "inferd"
    assert settings.listen


def test_kernel_and_standby_differ_in_their_names_alone() -> None:
    """The two kernels are given the same: either may lead."""
    texts = [(DEPLOY / "kubernetes" / f"{name}.yaml").read_text().split("---")[0] for name in ("kernel", "standby")]
    first, second = (text.split("\n", 1)[1].replace("inferd-standby", "inferd-kernel") for text in texts)
    assert first.strip() == second.strip()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_run_as_no_root_and_tell_their_health(name: str) -> None:
    """The last stage has a user that is not root, a health check that is Python, and a command that is one of ours."""
    text = (DEPLOY / "docker" / name).read_text().replace("\\\n", " ")
    lines = text[text.rindex("\nFROM ") :].splitlines()
    told = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}
    assert told["USER"] == "10001:10001"
    assert f"--uid {told['USER'].partition(':')[0]} " in told["RUN"]
    check = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    ast.parse(check[2])
    assert json.loads(told["ENTRYPOINT"]) == ["inferd"]
    assert json.loads(told["CMD"])[0] in {verb.path[-1] for verb in program().below}
    assert "unix:/run/inferd/inferd.sock" in told["CMD"]


def test_the_composition_is_one() -> None:
    """By the schema of its specification, with no field that it does not know, with the block for GPUs, too."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: nothing checks by schemas")
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed: it has the schema")
    vendored = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text())
    check = jsonschema.validators.validator_for(schema)(schema)
    text = (DEPLOY / "compose.yaml").read_text()
    assert text.count("# deploy: {") == 1
    for each in (text, text.replace("# deploy: {", "deploy: {")):
        check.validate(composed := yaml.safe_load(each))
    assert composed["services"]["kernel"]["deploy"]
    assert not check.is_valid(composed | {"services": {"kernel": {"read-only": True}}})


def test_images_are_made_of_sources_alone() -> None:
    """What was built here is no part of them: the native library would be for this machine."""
    left_out = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "**/*.so", "build"} <= set(left_out)


def test_the_composition_is_of_those_images() -> None:
    """Its services have no rights, share a socket, and run commands that there are with options that these have."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert "docker/Dockerfile" in services["kernel"]["build"]["dockerfile"]
    verbs = {verb.path[-1]: {name for word in verb.words for name in word.names} for verb in program().below}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        assert "socket:/run/inferd" in service["volumes"]
        verb, *words = service["command"]
        assert {word for word in words if word.startswith("--")} <= verbs[verb]


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda path: path.stem)
def test_units_run_what_every_debian_has(unit: Path) -> None:
    """Each command of a unit is the program of the wheel, with a verb that there is, or the shell of the system."""
    verbs = {verb.path[-1] for verb in program().below}
    lines = [line.partition("=") for line in unit.read_text().splitlines() if line.startswith("Exec")]
    assert lines
    for name, _, command in lines:
        path, verb, *_ = command.split()
        assert (path, verb in verbs) == ("/opt/inferd/bin/inferd", True) or path == "/bin/sh", f"{name}={command}"
