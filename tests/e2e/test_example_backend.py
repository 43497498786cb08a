"""The backend on the page plugins/README.md, installed as a package of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inferd.plugin.registry import BackendState, discover
from inferd.testing.kernel import kernel_process
from inferd_client import Client

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "plugins/README.md"
FILES = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TALE = "Once upon a time.\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    folder = tmp_path_factory.mktemp("package")
    for name, text in FILES.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the package is installed in, on the path of this process and of those that it starts."""
    target = tmp_path_factory.mktemp("installed")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, package], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(target))
        patch.syspath_prepend(str(target))
        yield target


@pytest.mark.usefixtures("installed")
async def test_discovered() -> None:
    """Discovery finds the package by its entry point and probes its backend."""
    reports = {report.name: report for report in await discover(allow=("txtlm",))}
    assert reports["matrix"].state is BackendState.READY
    report = reports["txtlm"]
    assert (report.state, report.why) == (BackendState.READY, "")
    assert report.package == "inferd-txtlm 0.1.0"
    assert report.devices[0].device_id == "cpu:0"


@pytest.mark.usefixtures("installed")
def test_contract(package: Path) -> None:
    """The conformance kit passes on it, run as the page says."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package), str(package)]
    result = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


BROKEN = {
    "copies nothing": "def copy_blocks(self, pairs):\n    pass",
    "copies the first": "def copy_blocks(self, pairs):\n    for source, target in pairs[:1]:\n"
    "        self._pool[target] = self._pool[source]",
    "keeps memory": "def step(self, batch, kept=[], right=TextSession.step):\n"
    "    kept.append(bytearray(16 << 20))\n    return right(self, batch)",
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("way", BROKEN)
def test_contract_of_a_broken_one(package: Path, tmp_path: Path, way: str) -> None:
    """The kit fails a session that copies no or too few blocks, or grows, though its model looks back two bytes."""
    name = BROKEN[way].split("(")[0].removeprefix("def ")
    text = (package / "test_txtlm.py").read_text() + f"\nfrom inferd_txtlm.backend import TextSession\n{BROKEN[way]}\n"
    (tmp_path / "test_broken.py").write_text(f"{text}\nTextSession.{name} = {name}\n")
    wanted = "copied_blocks" if name == "copy_blocks" else "add_up_in_memory"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-k", wanted]
    result = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert "1 failed" in result.stdout, result.stdout + result.stderr
    assert name in result.stdout


@pytest.mark.usefixtures("installed")
def test_served(tmp_path: Path) -> None:
    """A kernel serves a model of it, chosen by the ending of its file."""
    (tmp_path / "tale.txtlm").write_text(TALE)
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    with kernel_process(tmp_path / "kernel", environment=environment) as kernel, Client(kernel.address) as client:
        model = client.create_model("tale", source=str(tmp_path / "tale.txtlm"))
        assert model.backend_reason == "only READY backend for txtlm"
        answer = client.generate("tale", "Once u", temperature=0.0)
        np.save(tmp_path / "turn.npy", np.array([[0, 1], [-1, 0]], np.float32))
        client.create_model("turn", source=str(tmp_path / "turn.npy"))
        turned = client.infer("turn", {"x": np.array([[1, 2], [3, 4]], np.float32)})["y"]
    assert answer.text == TALE.removeprefix("Once u")
    assert turned.tolist() == [[-2, 1], [-4, 3]]
