"""`inferd models set`, `versions`, `rollback`, `add`, and what else `inferd models` has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import rollout_pb2 as rp
from inferd_client import Client

Commands = Callable[..., Result]


@pytest.fixture
def inferd(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs `inferd models …` against the scripted kernel, which knows three versions of "echo"."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    scripted.versions += [
        mp.ModelVersion(number=3, state=mp.VERSION_STATE_FAILED, source="/c", error=Status(message="cut off")),
        mp.ModelVersion(number=2, state=mp.VERSION_STATE_SERVING, source="/b", serve_time=Timestamp(seconds=20)),
        mp.ModelVersion(number=1, state=mp.VERSION_STATE_RETIRED, source="/a", serve_time=Timestamp(seconds=10)),
    ]
    return lambda *words: CliRunner().invoke(main.app, ["models", *words, "--address", scripted.address])


def test_set_says_what_is_to_be_otherwise(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """Settings, those that go, bounds and a source, as an absolute path, reach the kernel; it tells who serves."""
    file = tmp_path / "new.gguf"
    file.touch()
    words = ("threads=2", "--unset", "kv_format", "--max", "3", "--source", str(file))
    done = inferd("set", "echo", *words)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("version 1 of echo serves in place of 0")
    asked = scripted.requests[-1]
    assert (dict(asked.settings), asked.max_instances, asked.source) == (
        {"threads": "2", "kv_format": ""},
        3,
        str(file),
    )
    assert not asked.HasField("min_instances")
    assert json.loads(inferd("set", "echo", "a=b", "-o", "json").stdout)["version"] == 2


def test_a_probe_is_read_from_a_file(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """Its prompts reach the kernel as they stand there; what no probe has is a mistake that names the file."""
    probe = tmp_path / "probe.toml"
    probe.write_text(
        """
        [[prompts]]
        prompt = "The capital of France is"
        contains = ["Paris"]
        finish_reason = "max_tokens"
        most_first_token = "0.5s"

        [[prompts]]
        chat = {messages = [{role = "user", content = "Say yes."}]}
        agreement = 0.9
        """
    )
    assert inferd("set", "echo", "a=b", "--probe", str(probe)).exit_code == 0
    first, second = scripted.requests[-1].probe.prompts
    assert (first.prompt, [*first.contains], first.finish_reason) == ("The capital of France is", ["Paris"], 3)
    assert (first.most_first_token.ToMilliseconds(), second.chat.messages[0].content, second.agreement) == (
        500,
        "Say yes.",
        0.9,
    )
    probe.write_text("[[prompts]]\nanswer = 1")
    done = inferd("set", "echo", "a=b", "--probe", str(probe))
    said = "".join(each for each in done.output if each not in " \n│")  # it may be cut into lines anywhere
    assert (done.exit_code, "probe.toml" in said, "answer" in said) == (2, True, True)


def test_steps_are_shares_or_a_file(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """Shares in percent, or all of `Canary` as TOML, reach the kernel; `versions` tells how far they have come."""
    assert inferd("set", "echo", "a=b", "--canary", "5%, 25%,1").exit_code == 0
    assert [step.share for step in scripted.requests[-1].canary.steps] == [0.05, 0.25, 1.0]
    file = tmp_path / "canary.toml"
    file.write_text("token_ratio = 1.5\n[[steps]]\nshare = 0.5\nleast_time = '60s'")
    assert inferd("rollback", "echo", "1", "--canary", str(file)).exit_code == 0
    asked = scripted.requests[-1]
    assert (asked.version, asked.canary.token_ratio, asked.canary.steps[0].least_time.seconds) == (1, 1.5, 60)
    assert inferd("set", "echo", "a=b", "--canary", "much").exit_code == 2
    progress = rp.CanaryProgress(step=1, steps=3, share=0.05, tasks=3, least_tasks=20, failed_tasks=1)
    scripted.versions.insert(0, mp.ModelVersion(number=4, state=mp.VERSION_STATE_CANARY, canary=progress))
    told = " ".join(inferd("versions", "echo").stdout.split())
    assert "step 1 of 3: 0.05 of new tasks, 3 of 20 done, 1 failed" in told


def test_a_dry_run_tells_the_way_and_changes_nothing(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """Its exit code is 1 where there is no room."""
    assert inferd("set", "echo", "a=b", "--dry-run").stdout.startswith("beside what serves: as it is\n")
    assert scripted.requests[-1].validate_only
    (tmp_path / "huge.gguf").touch()
    done = inferd("set", "echo", "--source", str(tmp_path / "huge.gguf"), "--dry-run", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)["way"]) == (1, "ROLLOUT_WAY_NO_ROOM")
    assert scripted.models["echo"].version == 0


def test_a_command_of_inferd_itself_is_told_to_who_looks_for_it_here(inferd: Commands) -> None:
    """`inferd models unload` names `inferd unload`, and not what sounds alike."""
    assert "It is: inferd unload" in (told := inferd("unload", "echo").stderr)
    assert "upload" not in told
    assert "Did you mean 'upload'?" in inferd("uplaod").stderr


def test_set_without_a_change_is_a_mistake(scripted: Any, inferd: Commands) -> None:
    """Nothing is asked of the kernel, and the message says what could be given."""
    done = inferd("set", "echo")
    assert (done.exit_code, scripted.requests) == (2, [])
    assert "--source" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--canary", "5%,200%"), "step 2 of '5%,200%' is 200% of the new tasks; it must be above 5%"),
        (("--canary", "50%,25%"), "step 2 of '50%,25%' is 25% of the new tasks; it must be above 50%"),
        (("--canary", "5,25"), "step 1 of '5,25' is 5 of the new tasks; it must be above 0, to 100%, as 5%"),
        (("--canary", "5%,100%"), "nothing is to be otherwise; give NAME=VALUE"),
        (("--source", "http://example.org/x.gguf"), "fetch it first: inferd pull http://example.org/x.gguf"),
        (("--source", "m/nofile.fake"), "there is no file m/nofile.fake"),
    ],
)
def test_set_says_what_is_wrong_with_what_it_was_given(
    scripted: Any, inferd: Commands, words: tuple[str, ...], said: str
) -> None:
    """Nothing is asked of the kernel."""
    done = inferd("set", "echo", *words)
    assert done.exit_code != 0
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert scripted.requests == []


def test_a_url_is_told_as_it_was_given_to_add(inferd: Commands) -> None:
    """It is no path, and what fetches it is named."""
    assert "fetch it first: inferd pull http://example.org/x.gguf" in inferd("add", "http://example.org/x.gguf").stderr


def test_set_says_what_becomes_of_a_probe(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """It is there, replaced, or gone; `show` tells that there is one."""
    scripted.next_version = 0
    probe = tmp_path / "probe.toml"
    probe.write_text("[[prompts]]\nprompt = 'a'\nnot_empty = true")
    assert inferd("set", "echo", "--probe", str(probe)).stdout.startswith("echo: it has a probe now (1 prompt), no new")
    scripted.models["echo"].probe.CopyFrom(scripted.requests[-1].probe)
    scripted.models["echo"].source = "blob:sha256:00"  # the file is the kernel's alone
    assert "1 prompt" in inferd("show", "echo").stdout
    probe.write_text("[[prompts]]\nprompt = 'b'\nnot_empty = true")
    assert inferd("set", "echo", "--probe", str(probe)).stdout.startswith("echo: its probe is replaced (1 prompt)")
    probe.write_text("")
    assert inferd("set", "echo", "--probe", str(probe)).stdout == "echo: its probe is gone, no new version needed\n"


def test_rollback_goes_to_the_version_that_served_before(scripted: Any, inferd: Commands) -> None:
    """Or to the one that is named; with none that served before it says so."""
    assert inferd("rollback", "echo").exit_code == 0
    assert scripted.requests[-1].version == 1
    assert inferd("rollback", "echo", "3").exit_code == 0
    assert scripted.requests[-1].version == 3
    del scripted.versions[2]
    done = inferd("rollback", "echo")
    assert (done.exit_code, "no version of echo that is kept served before" in done.stderr) == (1, True)


def test_versions_are_listed(inferd: Commands) -> None:
    """For people with state and reason, as JSON as they are."""
    lines = inferd("versions", "echo").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["3", "failed"], ["2", "serving"], ["1", "retired"]]
    assert "cut off" in lines[1]
    numbers = [each["number"] for each in json.loads(inferd("versions", "echo", "-o", "json").stdout)["versions"]]
    assert numbers == [3, 2, 1]


def test_versions_tell_what_changed_with_each(scripted: Any, inferd: Commands) -> None:
    """Also what has no column of its own, and that nothing did."""
    same = scripted.versions[-1]
    scripted.versions[:] = [
        mp.ModelVersion(number=5, source="/a", pinned_digest=f"sha256:{'b' * 64}", size_bytes=7),
        mp.ModelVersion(number=4, source="/a", pinned_digest=f"sha256:{'a' * 64}", size_bytes=7),
        mp.ModelVersion(number=3, source="/a", settings={"threads": "2"}, size_bytes=7, device="cuda:0"),
        mp.ModelVersion(number=2, source="/a"),
        same,
    ]
    lines = inferd("versions", "echo").stdout.splitlines()[1:]
    for line, words in zip(
        lines,
        (
            f"digest {'b' * 12} is pinned",
            f"device, threads, digest {'a' * 12} is pinned",
            "device, threads, what its files hold",
            "nothing",
        ),
        strict=False,
    ):
        assert words in line
    assert not any(words in lines[4] for words in ("nothing", "source"))


def test_add_makes_a_file_known(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """Under its own name or another one; a path from the root that is none here is the kernel's to judge."""
    file = tmp_path / "mine.gguf"
    file.touch()
    assert inferd("add", str(file), "--min", "1").exit_code == 0
    asked = scripted.requests[-1].model
    assert (asked.name, asked.source, asked.min_instances) == ("mine", str(file), 1)
    for words in (("add",), ("set", "echo", "--source")):
        assert inferd(*words, str(tmp_path / "none.gguf")).exit_code == 0
        asked = scripted.requests[-1]
        assert (asked.model.source if words == ("add",) else asked.source) == str(tmp_path / "none.gguf")
    assert "there is no file" in inferd("add", "./none.gguf").stderr


def test_set_says_what_changed_without_a_new_version(scripted: Any, inferd: Commands) -> None:
    """The settings and bounds that are others now, and nothing where that is so."""
    scripted.next_version = 0
    scripted.models["echo"].settings["queued_tasks"] = "4"
    said = inferd("set", "echo", "idle_s=555", "--unset", "queued_tasks", "--max", "3").stdout
    assert said == "echo: idle_s=555, queued_tasks at its default, max_instances=3, no new version needed\n"
    assert inferd("set", "echo", "idle_s=555").stdout.startswith("echo: nothing changes")


def test_models_list_is_models(inferd: Commands) -> None:
    """As other groups of commands have it."""
    assert inferd("list", "-o", "json").stdout == inferd("-o", "json").stdout != ""


def test_a_setting_without_a_value_speaks_of_what_the_command_takes(inferd: Commands) -> None:
    """`models set` has no --set."""
    done = inferd("set", "echo", "threads")
    assert (done.exit_code, "--set" in done.stderr, "NAME=VALUE" in done.stderr) == (2, False, True)


def test_an_alias_is_told_given_and_taken_away(scripted: Any, inferd: Commands) -> None:
    """The command says what the name stood for, and asks for one change of one model."""
    assert inferd("alias", "echo").stdout == "echo\n"
    done = inferd("alias", "prod", "echo")
    assert done.stdout == "prod stands for echo from now on\n", done.output
    assert list(scripted.requests[-1].add_aliases) == ["prod"]
    assert "no alias" in inferd("alias", "echo", "--rm").stderr
    assert inferd("alias", "prod", "echo", "--rm").exit_code == 2


def test_labels_and_pins_reach_the_kernel(scripted: Any, inferd: Commands) -> None:
    """What is given of them is asked for, an empty label too, and what is not given is not."""
    assert inferd("set", "echo", "-l", "team=a", "-l", "old=", "--no-pin").exit_code == 0
    asked = scripted.requests[-1]
    assert (dict(asked.labels), asked.pin) == ({"team": "a", "old": ""}, False)
    assert (asked.HasField("pin"), asked.HasField("warm")) == (True, False)
    assert inferd("ls", "-l", "team=a").exit_code == 0
    assert dict(scripted.requests[-1].labels) == {"team": "a"}


def test_add_takes_what_the_kernel_fetches(scripted: Any, inferd: Commands) -> None:
    """The source goes to the kernel as it is, its model is called like the file, and a refusal is told in a line."""
    done = inferd("add", "https://h.example/d/Tiny-1B.gguf", "--digest", f"sha256:{'0' * 64}")
    assert done.exit_code == 0, done.stderr
    model = next(each.model for each in scripted.requests if each.DESCRIPTOR.name == "CreateModelRequest")
    assert (model.name, model.source, model.pinned_digest) == (
        "Tiny-1B", "https://h.example/d/Tiny-1B.gguf", f"sha256:{'0' * 64}",
    )  # fmt: skip
    unknown = CliRunner().invoke(main.app, ["models", "add", "hub:o/r", "--address", "127.0.0.1:1"])
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1), unknown.stderr


def test_who_leaves_a_rollout_is_told_that_it_goes_on(
    scripted: Any, inferd: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C says so, with the commands that follow it and that give it up, and ends the wait."""

    def interrupted(*_: Any, **__: Any) -> None:
        scripted.models["echo"].rolling.number = 4
        scripted.models["echo"].instances.add(instance_id="echo-7", version=4)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "update_model", interrupted)
    done = inferd("set", "echo", "a=b")
    assert (done.exit_code, done.stdout) == (130, "")
    assert " ".join(done.stderr.split()) == (
        "the rollout of version 4 of echo goes on; follow it with: inferd models versions echo; give it up with: inferd"
        " unload echo --instance echo-7"
    )
