"""`inferd pull` of models that are several files: the parts of a GGUF model, and folders."""

import functools
import http.server
import json
import os
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.content import joint
from inferd.runtime.library import Library, Manifest
from inferd.runtime.placement import stat_files
from inferd_api.v1 import model_pb2 as mp

Pull = Callable[..., Result]
PARTS = tuple(f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("INFERD_ADDRESS", f"unix:{tmp_path}/none.sock")
    return tmp_path / "data"


@pytest.fixture
def command(data: Path) -> Pull:  # noqa: ARG001 - it works on it
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(name: str, *, part: int = 0, count: int = 1) -> bytes:
    """A GGUF file with a tensor of this name, 1024 numbers."""
    pairs = [text("split.no") + struct.pack("<IH", 2, part), text("split.count") + struct.pack("<IH", 2, count)]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + text(name)
    head += struct.pack("<IQIQ", 1, 1024, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(4096)


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


FOLDER = {
    "config.json": b"{}",
    "model.safetensors": safetensors(),
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
}
LEFT_OUT = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "README.md~.py": b"x", ".git/config": b"x"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def wheel(folder: Path, members: dict[str, bytes]) -> None:
    info = "tiny_model-1.2.dist-info"
    fixed = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.2-py3-none-any.whl", "w") as archive:
        for name, content in (members | fixed).items():
            archive.writestr(name, content)


def write_shards(folder: Path) -> dict[str, bytes]:
    shards = {name: gguf(f"t{part}", part=part, count=3) for part, name in enumerate(PARTS)}
    write(folder, shards)
    return shards


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A web server of what is in the folder `web`."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("source", "named"),
    [(source, named) for source in ("file:{folder}/web/", "{host}/", "pypi:tiny-model#tiny/") for named in (0, 1)],
)
def test_all_parts_are_fetched_whichever_is_named(
    data: Path, command: Pull, host: str, source: str, named: int
) -> None:
    """Every part lies in one folder of the library, as one model without the part in its name, with all bytes."""
    shards = write_shards(data.parent / "web")
    wheel(data.parent / "wheels", {f"tiny/{name}": content for name, content in shards.items()})
    source = source.format(folder=data.parent, host=host)
    done = command("pull", source + PARTS[named], "-o", "json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["size_bytes"]) == ("big", str(sum(map(len, shards.values()))))
    assert {path.name: path.read_bytes() for path in (data / "models/big").glob("*.gguf")} == shards
    assert facts["path"] == str(data / "models/big" / PARTS[0])
    assert "already there" in command("pull", source + PARTS[1 - named]).stdout
    assert list((data / "downloads").iterdir()) == []


def test_all_parts_are_counted(tmp_path: Path, data: Path, command: Pull) -> None:
    """The list, the plan's file, what is shown and what is freed are of all parts; without one the model is broken."""
    shards = write_shards(tmp_path / "web")
    whole = sum(map(len, shards.values()))
    assert command("pull", f"file:{tmp_path}/web/{PARTS[0]}").exit_code == 0
    (listed,) = json.loads(command("models", "-o", "json").stdout)["library"]
    assert listed["size_bytes"] == str(whole)
    shown = json.loads(command("show", "big", "--digest", "-o", "json").stdout)
    assert (shown["size_bytes"], shown["sha256"]) == (str(whole), listed["sha256"])
    size_bytes, version = stat_files(data / "models/big" / PARTS[0])
    assert size_bytes == whole
    last = data / "models/big" / PARTS[2]
    os.utime(last, (1, 1))
    assert stat_files(data / "models/big" / PARTS[0])[1] != version
    last.rename(tmp_path / "away")
    assert Library(data).find("big") is None
    (tmp_path / "away").rename(last)
    removed = json.loads(command("rm", "big", "-o", "json").stdout)
    assert int(removed["freed_bytes"]) > whole


def test_parts_that_are_missing_or_strange_are_refused(tmp_path: Path, data: Path, command: Pull, host: str) -> None:
    """A part that is not there is named, as is one of another model; the library stays as it was."""
    folder = tmp_path / "web"
    shards = write_shards(folder)
    (folder / PARTS[2]).write_bytes(shards[PARTS[1]])
    strange = command("pull", f"{host}/{PARTS[0]}")
    assert strange.exit_code == 1
    assert f"{PARTS[2]}: metadata 'split.no' says" in strange.stderr
    (folder / PARTS[2]).unlink()
    assert f"{PARTS[2]}: part 3 of 3 of the model is missing" in command("pull", f"file:{folder}/{PARTS[0]}").stderr
    assert f"404 File not found for {host}/{PARTS[2]}" in command("pull", f"{host}/{PARTS[0]}").stderr
    assert Library(data).manifests() == ()
    assert Library(data).broken() == ()


@pytest.mark.parametrize("source", ["file:{}/tiny.v2", "pypi:tiny-model", "pypi:tiny-model#pack/tiny.v2"])
def test_a_folder_is_one_model(tmp_path: Path, data: Path, command: Pull, source: str) -> None:
    """Its files, those of inner folders too, are one model; weights that nobody reads are left out."""
    write(tmp_path / "tiny.v2", FOLDER | LEFT_OUT)
    wheel(tmp_path / "wheels", {f"pack/tiny.v2/{name}": content for name, content in (FOLDER | LEFT_OUT).items()})
    done = command("pull", source.format(tmp_path), "--name", "m", "-o", "json")
    assert done.exit_code == 0, done.output
    folder = data / "models/m/tiny.v2"
    assert json.loads(done.stdout)["path"] == str(folder)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FOLDER
    assert json.loads(command("show", "m", "-o", "json").stdout)["size_bytes"] == str(sum(map(len, FOLDER.values())))
    assert int(json.loads(command("rm", "m", "-o", "json").stdout)["freed_bytes"]) > sum(map(len, FOLDER.values()))
    assert list((data / "models").iterdir()) == []


def test_names_of_folders_keep_their_dots(tmp_path: Path, data: Path, command: Pull) -> None:
    """A folder's name has no ending; that of a package is the model's where no file is named."""
    write(tmp_path / "tiny.v2", FOLDER)
    wheel(tmp_path / "wheels", {f"pack/{name}": content for name, content in FOLDER.items()})
    assert command("pull", f"file:{tmp_path}/tiny.v2/").exit_code == 0
    assert command("pull", "pypi:tiny-model==1.2").exit_code == 0
    assert [manifest.name for manifest in Library(data).manifests()] == ["tiny-model", "tiny.v2"]
    assert "must not begin with '.' or '/'" in command("pull", "pypi:tiny-model", "--name", "../../pwn").stderr


def test_a_repository_of_a_hub_is_pulled_by_its_list(
    tmp_path: Path, data: Path, command: Pull, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf:OWNER/REPO` fetches the files that a backend may open; of one with single files they are named."""
    monkeypatch.setenv("HF_ENDPOINT", host)
    write(tmp_path / "web/org/tiny/resolve/main", FOLDER | LEFT_OUT)
    for name, files in (
        ("tiny", [*FOLDER, *LEFT_OUT]),
        ("quants", ["README.md", "q4.gguf"]),
        ("bad", ["a/b\x01", *FOLDER]),
    ):
        listing = {"siblings": [{"rfilename": file} for file in files]}
        write(tmp_path / f"web/api/models/org/{name}/revision", {"main": json.dumps(listing).encode()})
    assert command("pull", "hf:org/tiny").exit_code == 0
    found = Library(data).find("tiny")
    assert found is not None
    assert set(found.files) == {f"tiny/{name}" for name in FOLDER}
    assert "pull one of hf:org/quants/q4.gguf" in command("pull", "hf:org/quants").stderr
    assert "a file 'a/b\\x01'" in command("pull", "hf:org/bad").stderr
    assert "cannot be listed" in command("pull", "hf:org/none").stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("pypi:tiny-model#model.safetensors", "pull pypi:tiny-model#pack"),
        ("pypi:tiny-model#other", "has 0 files 'other'"),
        ("file:{}/tiny/model.safetensors", "a folder with config.json"),
        ("http://127.0.0.1:9/model.safetensors", "a folder with config.json"),
        ("file:{}/bare", "bare is a folder without a classifier.json"),
        ("file:{}/torch", "no weights that a backend reads"),
    ],
)
def test_what_is_no_whole_model_is_told_what_one_is(tmp_path: Path, command: Pull, source: str, said: str) -> None:
    """Weights alone, and folders without what a model has, are refused before anything is fetched."""
    write(tmp_path / "tiny", FOLDER)
    write(tmp_path / "bare", {"model.safetensors": b""})
    write(tmp_path / "torch", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    wheel(tmp_path / "wheels", {f"pack/{name}": content for name, content in FOLDER.items()})
    done = command("pull", source.format(tmp_path))
    assert done.exit_code == 1
    assert said in done.stderr


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"m.gguf": cut(gguf("t"))}, "m.gguf: tensor 't' of shape [1024] in F32 ends at byte"),
        ({"m.gguf": gguf("t")[:30]}, "m.gguf: "),
        ({"m.gguf": gguf("t")[:-1]}, "it is cut short or corrupt"),
        (FOLDER | {"model.safetensors": safetensors()[:-1]}, "model.safetensors: tensors end at byte"),
        (FOLDER | {"model.safetensors": cut(safetensors())}, "model.safetensors: the header needs"),
        (FOLDER | {"tokenizer.json": b"{"}, "tokenizer.json: is not JSON"),
        (
            FOLDER | {"model.safetensors.index.json": b'{"weight_map": {"w": "model-2.safetensors"}}'},
            "names 'model-2.safetensors', which is missing",
        ),
    ],
)
def test_what_is_cut_short_is_not_pulled(data: Path, command: Pull, files: dict[str, bytes], said: str) -> None:
    """A file that ends before what its header states is refused by its own name, and nothing of it stays."""
    write(data.parent / "m", files)
    wheel(data.parent / "wheels", {f"m/{name}": content for name, content in files.items()})
    member = "m.gguf" if "m.gguf" in files else ""
    for source in (f"file:{data.parent}/m/{member}", f"pypi:tiny-model#m/{member}"):
        done = command("pull", source)
        assert done.exit_code == 1, done.output
        assert said in done.stderr
        assert "downloads" not in done.stderr
        assert list((data / "downloads").iterdir()) == []
        assert Library(data).manifests() == ()


@pytest.mark.parametrize("path", ["../x", "/x", "m/../../x", "other/x", "m//x", "manifest.json"])
def test_files_outside_of_the_model_make_its_manifest_broken(tmp_path: Path, path: str) -> None:
    """A manifest cannot name a file that is not beside it or in the model's own folder."""
    library, whole = Library(tmp_path), write(tmp_path / "whole", {"m/config.json": b"{}"})
    files = {"m/config.json": "00"}
    library.add(Manifest(name="m", source="x", file="m", sha256=joint(files), size_bytes=2, files=files), whole)
    manifest = tmp_path / "models/m/manifest.json"
    assert library.find("m") is not None
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": {path: "00"}}))
    (broken,) = library.broken()
    assert "'files' must name files beside the manifest" in broken.why


@pytest.mark.parametrize(
    ("member", "said"),
    [("x.gguf", "has 0 files 'x.gguf'"), ("gguf", "has 0 files"), ("__init__.py", "has 2 files")],
)
def test_a_wheel_without_the_one_file(tmp_path: Path, command: Pull, member: str, said: str) -> None:
    """A member that is not there, or not once, is told with what the wheel has."""
    wheel(tmp_path / "wheels", {"tiny_model/w.gguf": gguf("t"), "a/__init__.py": b"", "b/__init__.py": b""})
    done = command("pull", f"pypi:tiny-model#{member}")
    assert done.exit_code == 1
    assert said in done.stderr
    assert "tiny_model/w.gguf" in done.stderr


def test_a_name_that_is_an_alias_is_told(
    tmp_path: Path, command: Pull, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that the name stands for would answer, so it is not said how to ask this one, but what to do."""
    monkeypatch.setenv("INFERD_ADDRESS", scripted.address)
    scripted.models["prod"] = mp.Model(name="echo", aliases=["prod"])
    for name in ("prod", "free"):
        (tmp_path / f"{name}.gguf").write_bytes(gguf("weights"))
    done = command("pull", f"file:{tmp_path}/prod.gguf")
    assert done.exit_code == 0, done.output
    assert ("ask it" in done.stdout, "inferd models alias --rm prod" in " ".join(done.stderr.split())) == (False, True)
    told = json.loads(command("pull", f"file:{tmp_path}/prod.gguf", "-o", "json").stdout)
    assert told["alias_of"] == "echo"
    assert "ask it" in command("pull", f"file:{tmp_path}/free.gguf").stdout
