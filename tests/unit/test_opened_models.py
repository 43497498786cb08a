"""Where models that are made of blobs lie open, and who finds them there."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from inferd.runtime.opened_files import MEMORY
from inferd.sandbox import landlock
from inferd.store import opened_models
from inferd.store.blob_files import BlobFiles
from inferd.store.opened_models import OpenedModels
from inferd.store.sealing.sealed_file import Owner

CONTENT = b"weights of another tenant"
LABEL = "model.gguf"
STORE = "0" * 32
SPANNING = """
import json, os, sys
from pathlib import Path
from inferd.sandbox.entry import Sandbox
from inferd.worker.beginning import _order
from inferd_api.worker.v1 import load_pb2
own, other, root = map(Path, sys.argv[1:])
load = load_pb2.Load(device="cuda:0", ranks=["cuda:0", "cuda:1"], path=str(own))
Sandbox(_order(load, "", reads=(str(own),))).seal()

def segment():
    path = root.parent / f"nccl-{os.getpid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(file, 1 << 16)
    os.close(os.open(path, os.O_RDWR))
    path.unlink()

tried = {
    "own": lambda: (own / "model.gguf").read_bytes(),
    "segment": segment,
    **{f"list {each}": lambda each=each: os.listdir(each) for each in (*other.parents[:3], root.parent)},
    "make": lambda: (root.parent / f"x{os.getpid()}").mkdir(),
    "link": lambda: (root.parent / f"x{os.getpid()}").symlink_to("/tmp"),
    "move": lambda: other.rename(root.parent / f"x{os.getpid()}"),
    "guess": lambda: (own.parent.parent / other.parent.name / own.name / "model.gguf").read_bytes(),
}
said = {}
for name, attempt in tried.items():
    try:
        attempt()
        said[name] = "done"
    except OSError as error:
        said[name] = type(error).__name__
print(json.dumps(said))
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory, where models lie open by default."""
    if not MEMORY.is_dir():
        pytest.skip(f"this system has no {MEMORY}")
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


def blobs(folder: Path) -> BlobFiles:
    """Blobs of a store, with one of each of two tenants."""
    files = BlobFiles(folder / "blobs" / STORE)
    files.make()
    for tenant in ("mine", "other"):
        owner = Owner(tenant, sha256(CONTENT).hexdigest())
        files.write(files.partial(*owner), 0, CONTENT, owner)
        files.settle(*owner)
    return files


def opened(models: OpenedModels, files: BlobFiles, tenant: str) -> Path:
    """The folder of a model of a tenant, with its file."""
    digest = sha256(CONTENT).hexdigest()
    models.link(name := files.name(tenant, digest), tenant, {LABEL: digest})
    return models.folder(name)


def test_a_worker_over_several_devices_finds_no_other_model_in_shared_memory(root: Path) -> None:
    """It makes and opens segments of shared memory and reads its own model; others' it cannot list, move or guess."""
    if not landlock.version():
        pytest.skip("this system has no Landlock")
    files = blobs(root)
    models = OpenedModels(files, root / "beside", root / "open")
    (root / "open").mkdir()
    own, other = (opened(models, files, tenant) for tenant in ("mine", "other"))
    command = [sys.executable, "-P", "-c", SPANNING, str(own), str(other), str(root)]
    said = json.loads(subprocess.run(command, timeout=60, check=True, capture_output=True).stdout)
    assert said.pop("own") == said.pop("segment") == "done"
    assert said.pop("guess") == "FileNotFoundError"
    assert set(said.values()) == {"PermissionError"}, said
    assert (other / LABEL).read_bytes() == CONTENT


def test_kernels_of_one_host_leave_each_other_their_models(tmp_path: Path) -> None:
    """What another kernel has open stays when one begins, and what one left that was killed goes, and none before."""
    files, root = blobs(tmp_path), tmp_path / "open"
    root.mkdir()
    one, two, killed = (OpenedModels(files, tmp_path / "beside", root) for _ in range(3))
    folders = [opened(each, files, "mine") for each in (one, two, killed)]
    killed._let_go()  # as the system does for who ends
    old = root / STORE / "tenant" / "model"
    old.mkdir(parents=True)
    stranger = root / "of-somebody"
    stranger.mkdir()
    two.sweep(frozenset({files.name("mine", sha256(CONTENT).hexdigest())}))
    assert [folder.exists() for folder in (*folders, old, stranger)] == [True, True, False, False, True]
    assert {path.stat().st_mode & 0o777 for path in (*folders[0].parents[:2], folders[0])} == {0o700}
    two.sweep(frozenset())
    assert [folder.exists() for folder in folders] == [True, False, False]
    one.close()
    assert [path for path in root.iterdir() if path != stranger] == [two._own]


def test_what_a_dead_kernel_left_goes_also_where_the_blobs_are_away(tmp_path: Path) -> None:
    """Models that lie open in memory do not stay there for as long as the disk of the blobs is not mounted."""
    files = blobs(tmp_path)
    killed, models = (OpenedModels(files, tmp_path / "beside", tmp_path / "open") for _ in range(2))
    folder = opened(killed, files, "mine")
    killed._let_go()  # as the system does for who ends
    files.folder.rename(tmp_path / "away")
    models.sweep(frozenset())
    assert not folder.exists()


def test_a_folder_that_was_swept_while_it_was_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that another one took for dead, between its folder and the lock of it, has its model all the same."""
    files = blobs(tmp_path)
    models, sweeping = (OpenedModels(files, tmp_path / "beside", tmp_path / "open") for _ in range(2))
    swept = list[Path]()
    lock = opened_models._locked

    def late(folder: Path) -> int:
        if not swept:
            swept.append(folder)
            sweeping.sweep(frozenset())
        return lock(folder)

    monkeypatch.setattr(opened_models, "_locked", late)
    assert (opened(models, files, "mine") / LABEL).read_bytes() == CONTENT
    sweeping.sweep(frozenset())
    assert (opened(models, files, "mine") / LABEL).read_bytes() == CONTENT
