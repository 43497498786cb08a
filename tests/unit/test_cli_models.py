"""`inferd show` and `rm`, and models that are loaded in another way than they would be."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from typer.testing import CliRunner, Result

from inferd.cli import kernel, main
from inferd.cli.options import read_wanted
from inferd.cli.transcript import waiting
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.http.chunks import queue_of
from inferd.runtime.library import Library, Manifest
from inferd_api.v1.model_pb2 import MODEL_STATE_FAILED, Model
from inferd_api.v1.task_pb2 import Queued

Commands = Callable[..., Result]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def inferd(scripted: Any, folders: Path) -> Commands:  # noqa: ARG001 - in its folders
    """Runs commands against the scripted kernel."""
    return lambda *arguments: CliRunner().invoke(main.app, [*arguments, "--address", scripted.address])


@pytest.fixture
def nobody(unused_address: str, folders: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:  # noqa: ARG001 - in its folders
    """Commands where no kernel answers, and none may be started."""
    monkeypatch.setattr(kernel, "private_kernel", lambda: pytest.fail("a kernel was started"))
    return lambda *arguments: CliRunner().invoke(main.app, [*arguments, "--address", unused_address])


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(path: Path, **texts: str) -> Path:
    """A GGUF file without tensors."""
    pairs = b"".join(text(key.replace("__", ".")) + struct.pack("<I", 8) + text(value) for key, value in texts.items())
    heat = text("general.sampling.temp") + struct.pack("<If", 6, 0.25)
    tokens = text("tokenizer.ggml.scores") + struct.pack("<IIQ20f", 9, 6, 20, *range(20))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(texts) + 2) + pairs + heat + tokens)
    return path


def pulled(folders: Path, name: str = "mine", **texts: str) -> Manifest:
    weights = gguf(folders / "w.gguf", general__architecture="llama", **texts)
    size_bytes = weights.stat().st_size
    manifest = Manifest(name=name, source="https://h/w", file="w.gguf", sha256="ab" * 32, size_bytes=size_bytes)
    Library(folders / "data").add(manifest, weights)
    return manifest


def test_a_bad_path_starts_no_kernel(nobody: Commands, folders: Path) -> None:
    """A path without a model, an unreadable one, and a name that nobody knows are errors before a kernel is started."""
    (folders / "empty").mkdir()
    for name, said in (
        (str(folders / "none"), "there is no file"),
        ("./none.gguf", "there is no file"),
        ("none.gguf", "there is no file"),
        ("~/no/such/model", "there is no file"),
        (str(folders / "empty"), "without a classifier.json"),
        ("nonsense", "no model 'nonsense'"),
        ("m/nofile.fake", "there is no file m/nofile.fake"),
        (
            "https://example.org/x.gguf",
            "is not a file of this host; fetch it first: inferd pull https://example.org/x.gguf",
        ),
        ("smollm2", "inferd pull smollm2"),
        ("smolm2", "did you mean 'smollm2'"),
    ):
        for command in (("run", name, "x"), ("tokenize", name, "x")):
            done = nobody(*command)
            assert (done.exit_code, said in done.stderr) == (1, True), (command, done.output)


def test_run_load_and_plan_take_settings_a_backend_and_a_device(scripted: Any, inferd: Commands) -> None:
    """What is wanted becomes a model beside the named one, the same one each time; the named one stays as it is."""
    scripted.models["echo"].settings["context_tokens"] = "9"
    options = ("--set", "threads=2", "--backend", "cpu", "--device", "cpu:0")
    known = set(scripted.models)
    scripted.models["echo"].device = "cpu:0"
    for _ in range(2):
        assert inferd("load", "echo", *options).exit_code == 0
    (made,) = set(scripted.models) - known
    assert made.startswith("echo:")
    assert dict(scripted.models[made].settings) == {"context_tokens": "9", "threads": "2"}
    assert (scripted.models[made].backend, scripted.models[made].device) == ("cpu", "cpu:0")
    inferd("run", "echo", "x", *options)
    assert scripted.requests[-1].spec.model == made
    inferd("load", "echo", "--backend", "torch")
    (other,) = set(scripted.models) - known - {made}
    assert (scripted.models[other].backend, dict(scripted.models[other].settings)) == ("torch", {})
    assert dict(scripted.models["echo"].settings) == {"context_tokens": "9"}
    inferd("load", "echo", "--set", "context_tokens=9")
    assert len(scripted.models) == len(known) + 2


def test_a_file_is_loaded_in_another_way(scripted: Any, inferd: Commands, folders: Path) -> None:
    """A path with settings is a model of its own; the path alone keeps the plain name."""
    path = str(gguf(folders / "tiny.gguf"))
    inferd("run", path, "x", "--set", "threads=2")
    inferd("run", path, "x")
    assert dict(scripted.models["tiny"].settings) == {}
    (other,) = [name for name in scripted.models if name.startswith("tiny:")]
    assert dict(scripted.models[other].settings) == {"threads": "2"}


def test_a_plan_makes_no_model(scripted: Any, inferd: Commands) -> None:
    """`plan` sends what is wanted with its call; wrong pairs are misuse."""
    known = set(scripted.models)
    inferd("plan", "echo", "--set", "a=b", "--setting", "c=d", "--backend", "cpu", "--device", "cpu:0")
    request = scripted.requests[-1]
    assert (dict(request.settings), request.backend, request.device) == ({"a": "b", "c": "d"}, "cpu", "cpu:0")
    assert set(scripted.models) == known
    for command in ("run", "load", "plan"):
        assert inferd(command, "echo", *["x"] * (command == "run"), "--set", "a").exit_code == 2


def test_show_tells_all_of_a_pulled_model(nobody: Commands, folders: Path) -> None:
    """Without a kernel the file, its digest, metadata, template and advice are told, long arrays by their length."""
    pulled(folders, tokenizer__chat_template="{{ [red] }}\x1b[31m", tokenizer__chat_template__tool_use="tools")
    done = nobody("show", "mine")
    assert done.exit_code == 0, done.output
    for words in ("w.gguf", "ab" * 32, "https://h/w", "llama", "20 items", "temperature=0.25", r"{{ [red] }}\x1b[31m"):
        assert words in done.stdout
    told = json.loads(nobody("show", "mine", "-o", "json").stdout)
    assert told["chat_templates"] == {"default": "{{ [red] }}\x1b[31m", "tool_use": "tools"}
    assert told["metadata"]["general.architecture"] == "llama"
    assert (told["sampling"], told["model"]) == ({"temperature": 0.25}, None)
    assert told["sha256"] == "ab" * 32


def test_show_of_a_path_a_folder_and_a_kernel_s_model(scripted: Any, inferd: Commands, folders: Path) -> None:
    """A file may be hashed, a folder is read as one, and a kernel's state and settings are told."""
    path = gguf(folders / "x.gguf", general__name="X")
    told = json.loads(inferd("show", str(path), "--digest", "-o", "json").stdout)
    assert (len(told["sha256"]), told["description"]) == (64, "X")
    (folders / "config.json").write_text('{"model_type": "llama"}')
    (folders / "tokenizer_config.json").write_text('{"chat_template": [{"name": "a", "template": "t"}]}')
    (folders / "generation_config.json").write_text('{"top_k": 5}')
    told = json.loads(inferd("show", str(folders), "-o", "json").stdout)
    assert (told["metadata"], told["chat_templates"]) == ({"model_type": "llama"}, {"a": "t"})
    assert told["sampling"] == {"top_k": 5}
    scripted.models["echo"].source = str(path)
    told = json.loads(inferd("show", "echo", "-o", "json").stdout)
    assert told["model"]["state"] == "MODEL_STATE_READY"
    scripted.models["echo"].content_digest = "sha256:12"
    assert "adapter" not in (shown := inferd("show", "echo").stdout)
    assert "ready" in shown
    scripted.models["echo"].settings["adapter"] = "/lora"
    assert "sha256:12 (not of its adapter)" in " ".join(inferd("show", "echo").stdout.split())
    (folders / "config.json").write_text("[]")
    assert "must be a JSON object" in inferd("show", str(folders)).stderr
    path.write_bytes(path.read_bytes()[:40])
    done = inferd("show", str(path))
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert "no model 'nonsense'" in inferd("show", "nonsense").stderr


def test_an_uploaded_model_is_shown_and_forgotten_without_a_file(scripted: Any, inferd: Commands) -> None:
    """`show` tells what the kernel does, and no file; `rm` says that its blobs are not files of somebody."""
    source = f"blob:sha256:{'0' * 64}"
    scripted.models["up"] = Model(name="up", source=source)
    told = json.loads(inferd("show", "up", "-o", "json").stdout)
    assert (told["source"], told["path"], told["model"]["name"]) == (source, "", "up")
    assert source in inferd("show", "up").stdout.replace("\n", "")
    assert (
        inferd("rm", "up").stdout
        == "up is forgotten; its blobs stay as long as the kernel keeps them: inferd blobs list\n"
    )


def test_rm_takes_a_model_from_library_and_kernel(scripted: Any, inferd: Commands, folders: Path) -> None:
    """The kernel forgets the model and all made of its file, the files are gone, others stay; aliases are told."""
    manifest = pulled(folders)
    source = str(Library(folders / "data").path(manifest))
    for name in ("mine", "mine:1234"):
        scripted.models[name] = Model(name=name, source=source, aliases=["live"] if name == "mine" else [])
    done = inferd("rm", "mine")
    assert done.exit_code == 0, done.output
    assert done.stderr == "its alias live stands for nothing any more\n"
    assert done.stdout.startswith("mine is removed; ")
    assert {"mine", "mine:1234"} & set(scripted.models) == set()
    assert not Path(source).parent.exists()
    assert inferd("rm", "plain").stdout == "plain is forgotten; its file was not pulled and stays\n"


def test_rm_spares_what_is_in_use(scripted: Any, inferd: Commands, folders: Path) -> None:
    """A loaded model is refused with the way to unload it and keeps its file; others of the call are removed."""
    manifest = pulled(folders, "echo")
    scripted.models["echo"].source = str(Library(folders / "data").path(manifest))
    done = inferd("rm", "echo", "nonsense", "plain", "-o", "json")
    assert done.exit_code == 1
    busy, unknown, removed = [json.loads(line) for line in done.stdout.splitlines()]
    assert busy["error"]["reason"] == "MODEL_BUSY"
    assert "inferd unload echo" in busy["error"]["message"]
    assert unknown["error"]["reason"] == "MODEL_NOT_FOUND"
    assert removed == {"name": "plain", "freed_bytes": None}
    assert Library(folders / "data").find("echo") == manifest


def test_a_label_that_no_model_has_is_told(scripted: Any, inferd: Commands, folders: Path) -> None:
    """Not that there are no models; and as JSON nothing is told of what does not have it."""
    pulled(folders)
    scripted.models.clear()
    assert "no model has the label team=b" in inferd("models", "ls", "-l", "team=b").stderr
    assert json.loads(inferd("models", "ls", "-l", "team=b", "-o", "json").stdout)["library"] == []


def test_rm_unloads_what_nobody_uses_and_says_what_comes_back(scripted: Any, inferd: Commands) -> None:
    """A loaded model without tasks and leases goes with its worker; one that is declared is known again later."""
    scripted.models["echo"].instances[0].running_tasks = 0
    scripted.models["echo"].declared = "inferd.toml, models[0]"
    done = inferd("rm", "echo")
    assert (done.exit_code, "echo" in scripted.models) == (0, False), done.output
    assert "echo is declared in inferd.toml, models[0]: it is known again at the kernel's next start" in done.stderr


def test_rm_without_a_kernel_takes_broken_ones_too(nobody: Commands, folders: Path) -> None:
    """Where no kernel runs the library is all there is; a folder that cannot be used is removed by its name."""
    pulled(folders)
    (folders / "data/models/mine/w.gguf").unlink()
    assert nobody("rm", "mine").exit_code == 0
    assert not (folders / "data/models/mine").exists()
    assert nobody("rm", "mine").exit_code == 1
    assert nobody("rm", "../models").exit_code == 1


def test_show_tells_how_is_sampled_really_and_why_a_load_failed(
    scripted: Any, inferd: Commands, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each sampling field the value that applies is told, and whose it is; of a model that failed the cause."""
    path = gguf(folders / "x.gguf")
    advice = SamplingDefaults(temperature=0.9, top_p=0.5)
    monkeypatch.setattr("inferd.cli.show.catalogue_sampling", lambda _path, _size: advice)
    told = json.loads(inferd("show", str(path), "-o", "json").stdout)
    assert told["sampling"] == {"temperature": 0.25, "top_p": 0.5}
    assert told["effective_sampling"]["temperature"] == {"value": 0.25, "by": "its file"}
    assert told["effective_sampling"]["top_p"] == {"value": 0.5, "by": "the catalogue"}
    assert told["effective_sampling"]["min_p"] == {"value": 0.05, "by": "the kernel"}
    error = Status(code=9, message="tensor 'x' is cut off; log: /state/x.log")
    model = Model(name="x", source=str(path), state=MODEL_STATE_FAILED, error=error)
    model.sampling_defaults.top_k = 7
    scripted.models["x"] = model
    told = json.loads(inferd("show", "x", "-o", "json").stdout)
    assert told["effective_sampling"]["top_k"] == {"value": 7, "by": "its creation"}
    assert told["model"]["error"]["message"] == error.message
    shown = inferd("show", "x").stdout
    assert f"failed: {error.message}" in shown
    assert "top_p=0.5 (by the catalogue)" in shown


def test_show_of_another_file_of_a_pulled_name(scripted: Any, inferd: Commands, folders: Path) -> None:
    """Where the kernel knows another file by a pulled model's name, all that is told is of the kernel's."""
    pulled(folders)
    other = gguf(folders / "other.gguf", general__name="Other")
    scripted.models["mine"] = Model(name="mine", source=str(other))
    told = json.loads(inferd("show", "mine", "-o", "json").stdout)
    assert (told["path"], told["description"], told["sha256"]) == (str(other), "Other", "")


def test_a_variant_names_no_backend_that_nobody_asked_for(scripted: Any, inferd: Commands) -> None:
    """Where the kernel chose the backend of a model, it chooses that of one with other settings again."""
    known = set(scripted.models)
    for reason, asked in (("only READY backend for gguf", ""), ("requested by name", "cpu")):
        scripted.models["echo"].backend_reason = reason
        inferd("load", "echo", "--set", f"a={asked}")
        (made,) = set(scripted.models) - known
        assert scripted.models.pop(made).backend == asked


def test_a_file_of_no_model_is_not_pulled(folders: Path) -> None:
    """`pull file:` reads how a file begins before it copies it; what is none of a model's is refused."""
    file = folders / "notes.gguf"
    file.write_text("# notes")
    done = CliRunner().invoke(main.app, ["pull", f"file:{file}", "-o", "json"])
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["reason"]) == (1, "SOURCE_INVALID")
    assert "is no model file: it begins with b'# no'" in error["message"]
    assert not (folders / "data/models").exists()


def test_unload_one_instance(scripted: Any, inferd: Commands) -> None:
    """`--instance` reaches the kernel and is named in the answer; an empty one, or one beside `--force`, is refused."""
    assert inferd("unload", "echo", "--instance", "echo-2").stdout.startswith("echo-2 is unloaded;")
    assert (scripted.requests[-1].name, scripted.requests[-1].instance_id) == ("echo", "echo-2")
    asked = len(scripted.requests)
    for wrong in (["--instance", ""], ["--instance", "echo-2", "--force"]):
        done = inferd("unload", "echo", *wrong)
        assert done.exit_code == 2
        assert "instance" in done.stderr
    assert len(scripted.requests) == asked


def test_a_folder_that_is_no_model_is_told(inferd: Commands, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the name that is given is looked at, with or without `./`, and what it lacks or is, is said."""
    monkeypatch.chdir(folders)
    (folders / "bare").mkdir()
    (folders / "lora").mkdir()
    (folders / "lora/adapter_config.json").touch()
    for name in ("bare", "./bare"):
        assert (
            "bare is a folder without a classifier.json, config.json, model.onnx or heads.json; name a file"
            in inferd("run", name, "x").stderr
        )
    for name in ("lora", "./lora"):
        said = inferd("run", name, "x").stderr
        assert (
            "is an adapter (LoRA), no model: have the model that it was made for use it (inferd adapters load" in said
        )


def test_settings_that_are_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worker runs in another folder; `~` is the user's home, and other settings stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    given = ["adapter=lora/ok.gguf", "profile=~/x", "kv_format=./i8"]
    settings = read_wanted("m", settings=given).settings
    assert settings == {"adapter": f"{tmp_path}/lora/ok.gguf", "profile": "/h/x", "kv_format": "./i8"}


def test_a_version_is_no_model_of_the_library(scripted: Any, inferd: Commands) -> None:
    """`rm` and `show` of `echo@3` go to the kernel, and what was fetched is told to go with the last that is of it."""
    scripted.models["echo@3"] = Model(name="echo@3", source="https://h.example/m.gguf")
    assert "https://h.example/m.gguf" in inferd("show", "echo@3").stdout
    assert "echo@3 is forgotten; what was fetched goes with" in inferd("rm", "echo@3").stdout
    assert "no model 'echo@4'" in inferd("rm", "echo@4").stderr


def test_why_tasks_wait_is_told(scripted: Any, inferd: Commands) -> None:
    """`ps` says why nothing comes up for tasks that wait, and who waits for his own is told so while he does."""
    scripted.models["echo"].queue_reason = "no host takes new work: all are cordoned"
    said = "tasks wait for echo: no host takes new work: all are cordoned"
    assert said in inferd("ps").stderr
    assert json.loads(inferd("ps", "-o", "json").stdout)["waiting"] == [{"model": "echo", "reason": said[21:]}]
    queued = Queued(position=2, reason=said[21:])
    assert waiting(queued, "echo") == "waiting for echo, 2 before it: no host takes new work: all are cordoned"
    assert queue_of(queued) == {"status": "queued", "position": 2, "reason": said[21:]}
