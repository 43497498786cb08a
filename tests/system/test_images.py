"""The image of deploy/docker, built by buildah of a Debian that debootstrap made: it serves as no root, and says so.

It needs root, buildah, debootstrap and a mirror (INFERD_DEBIAN_MIRROR); INFERD_DEBIAN_BASE names a folder in which
debootstrap has put a system with python3 already, INFERD_WHEEL a wheel that is installed instead of the tree.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[2]
BUILDAH = shutil.which("buildah") or ""
DOCKERFILE = "deploy/docker/Dockerfile"
MADE_S = 3000
LOOKS = 120
"""How often the health check is asked until it is well, a second each."""

pytestmark = [
    pytest.mark.timeout(2 * MADE_S),
    pytest.mark.skipif(bool(os.geteuid()), reason="no root: an image cannot be built of a folder"),
    pytest.mark.skipif(not BUILDAH, reason="buildah is not installed"),
    pytest.mark.skipif(
        not shutil.which("debootstrap") and "INFERD_DEBIAN_BASE" not in os.environ,
        reason="debootstrap is not installed",
    ),
]


def run(*words: str, folder: Path = ROOT, **more: str) -> str:
    """What a command says; it has to succeed."""
    done = subprocess.run(
        words, cwd=folder, env=os.environ | more, capture_output=True, text=True, check=False, timeout=MADE_S
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the image, built of what is in the tree."""
    names = [f"localhost/inferd-test-{kind}-{uuid4().hex[:8]}" for kind in ("base", "built")]
    chosen = {"FOLDER": os.environ.get("INFERD_DEBIAN_BASE", "")}
    if mirror := os.environ.get("INFERD_DEBIAN_MIRROR"):
        chosen["MIRROR"] = mirror
    context, source = ROOT, "/src"
    if named := os.environ.get("INFERD_WHEEL"):
        context = tmp_path_factory.mktemp("context")
        shutil.copy(named, context)
        source = f"/src/{Path(named).name}"
    try:
        run("deploy/docker/debootstrap.sh", names[0], **chosen)
        build = (BUILDAH, "build", "--format", "docker", "--isolation", "chroot", "--build-arg", f"BASE={names[0]}")
        extras = ("--build-arg", f"SOURCE={source}", "--build-arg", "EXTRAS=http")
        run(*build, *extras, "-f", str(ROOT / DOCKERFILE), "-t", names[1], ".", folder=context)
        yield names[1]
    finally:
        for name in reversed(names):
            subprocess.run([BUILDAH, "rmi", "--force", name], capture_output=True, check=False)


def test_its_command_serves_as_no_root_and_its_health_check_tells(image: str) -> None:
    """What the image starts is healthy by the image's own check, as user 10001, and ends in order by its signal."""
    told = json.loads(run(BUILDAH, "inspect", "--type", "image", image))["Docker"]["config"]
    assert (told["User"], told["StopSignal"], told["Entrypoint"]) == ("10001:10001", "SIGTERM", ["inferd"])
    kind, *check = told["Healthcheck"]["Test"]
    assert kind == "CMD"
    script = """
    "$@" 2> /tmp/log & kernel=$!
    for look in $(seq $LOOKS); do "$PYTHON" -c "$CHECK" 2> /dev/null && well=yes && break; sleep 1; done
    echo "user $(id -u):$(id -g), well ${well:-no}"
    ls -A /var/lib/inferd/data > /dev/null && echo kept
    kill -TERM $kernel; wait $kernel; echo "ended $?"; cat /tmp/log
    """
    container = run(BUILDAH, "from", image).strip()
    try:
        environment = [f"LOOKS={LOOKS}", f"PYTHON={check[0]}", f"CHECK={check[2]}"]
        words = [word for each in environment for word in ("--env", each)]
        command = ("sh", "-c", script, "sh", *told["Entrypoint"], *told["Cmd"])
        said = run(BUILDAH, "run", "--isolation", "chroot", *words, container, "--", *command)
    finally:
        run(BUILDAH, "rm", container)
    lines = said.splitlines()
    assert "user 10001:10001, well yes" in lines, said
    assert "kept" in lines, said
    assert "ended 0" in lines, said
