"""Folders of a model repository and their configurations, read without a kernel: what is served, and why not."""

import os
from pathlib import Path

import pytest

from inferd.errors import InvalidFieldError
from inferd.model_names import TAKEN, TAKEN_RULE
from inferd.repository.config_text import parse_json, parse_text, read_config
from inferd.repository.folders import look, scan
from inferd.repository.served import Served, served_of
from inferd.repository.terms import Kinds
from inferd_api.inference import model_config_pb2 as cp

MOST = 4096


def model(root: Path, name: str, *versions: int, config: str = "", file: str = "model.onnx") -> Path:
    """A folder of a model whose files are of no interest."""
    for version in versions:
        (root / name / str(version)).mkdir(parents=True)
        (root / name / str(version) / file).write_text("weights")
    (root / name).mkdir(exist_ok=True)
    if config:
        (root / name / "config.pbtxt").write_text(config)
    return root / name


def served(root: Path, name: str, *, most_versions: int = 16) -> Served:
    folder = look(root.resolve(), name)
    assert not folder.why
    config = cp.ModelConfig() if folder.config is None else read_config(folder.config, most_bytes=MOST)
    return served_of(folder, config, most_versions=most_versions)


def refusal(root: Path, name: str, **bounds: int) -> str:
    with pytest.raises(InvalidFieldError) as caught:
        served(root, name, **bounds)
    return caught.value.message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (f'backend: "inferd" default_model_filename: "{"a" * 300}"', "of 255 bytes at most"),
        (f'input {{ name: "x" data_type: TYPE_FP32 dims: {[0] * 5000} }}', "dimension must be integer >= 1"),
    ],
)
def test_long_values_are_refused_in_few_words(tmp_path: Path, config: str, words: str) -> None:
    """Names that no file has, and as many sizes as one likes, are refused with their field, shortly."""
    model(tmp_path, "m", 1, config=config)
    folder = look(tmp_path.resolve(), "m")
    with pytest.raises(InvalidFieldError) as caught:
        served_of(folder, parse_text(config), most_versions=16)
    assert words in caught.value.message
    assert len(caught.value.message) < 1000
    assert caught.value.field


def test_names_of_functions_are_no_models(tmp_path: Path) -> None:
    """A folder that is called as functions are is left out, and says which names are theirs."""
    for name in TAKEN:
        model(tmp_path, name, 1)
    assert [each.why.rpartition(", and ")[2] for each in scan(tmp_path, most=10).values()] == [TAKEN_RULE] * len(TAKEN)


def test_a_folder_without_a_word_is_completed(tmp_path: Path) -> None:
    """A model.onnx and no config.pbtxt are a model of ONNX Runtime; hidden folders and files are none."""
    model(tmp_path, "plain", 1, 3)
    model(tmp_path, ".hidden", 1)
    (tmp_path / "README.md").write_text("no model")
    (tmp_path / "plain" / "03").mkdir()
    (tmp_path / "plain" / "labels").mkdir()
    found = scan(tmp_path, most=10)
    assert list(found) == ["plain"]
    assert found["plain"].versions == (1, 3)
    got = served(tmp_path, "plain")
    assert [(each.name, each.number, each.backend) for each in got.versions] == [("plain", 3, "onnx")]
    assert got.versions[0].source == str(tmp_path.resolve() / "plain" / "3" / "model.onnx")
    assert (got.terms.platform, got.terms.backend) == ("onnxruntime_onnx", "onnxruntime")


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ("", ["m"]),
        ("latest { num_versions: 2 }", ["m:2", "m"]),
        ("all {}", ["m:1", "m:2", "m"]),
        ("specific { versions: [1, 9] }", ["m"]),
    ],
)
def test_versions_follow_their_policy(tmp_path: Path, policy: str, names: list[str]) -> None:
    """The newest that is wanted has the model's name, the others have their numbers behind it."""
    model(tmp_path, "m", 1, 2, 10, config=f"version_policy {{ {policy} }}" if policy else "")
    assert [each.name for each in served(tmp_path, "m").versions] == names


def test_versions_are_bounded(tmp_path: Path) -> None:
    """None that is wanted, and more than may be, are refused with both numbers."""
    model(tmp_path, "m", 1, 2, config="version_policy { specific { versions: 7 } }")
    assert "there is 1, 2" in refusal(tmp_path, "m")
    (tmp_path / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    assert "wants 2 versions, and repository.versions is 1" in refusal(tmp_path, "m", most_versions=1)
    model(tmp_path, "empty")
    assert "no folder of a version" in refusal(tmp_path, "empty")


def test_what_a_configuration_says_becomes_settings(tmp_path: Path) -> None:
    """Batching, instances, accelerators and parameters are settings of the backend; what is not obeyed is noted."""
    config = """
      name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
      dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 1500
                         default_queue_policy { max_queue_size: 7 } priority_levels: 3 default_priority_level: 2 }
      instance_group [{ count: 2 kind: KIND_CPU }]
      optimization { graph { level: -1 } execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
      parameters { key: "intra_op_thread_count" value { string_value: "3" } }
      parameters { key: "inferd.workspace_mib" value { string_value: "99" } }
      parameters { key: "strange" value { string_value: "1" } }
      model_warmup [{ name: "w" batch_size: 1 }]
    """
    model(tmp_path, "m", 1, config=config)
    got = served(tmp_path, "m")
    assert got.versions[0].settings == {
        "serves": "tensors",
        "max_batch": "8",
        "preferred_batches": "4,8",
        "batch_delay_ms": "1.5",
        "queued_tasks": "7",
        "threads": "2",
        "optimization": "basic",
        "provider": "openvino",
        "intra_threads": "3",
        "workspace_mib": "99",
    }
    assert got.versions[0].device == "cpu:0"
    assert (got.terms.rows, got.terms.priorities, got.terms.default_priority) == (8, 3, 2)
    assert [note.partition(":")[0] for note in got.notes] == ["parameters['strange']", "model_warmup"]


def test_a_sequence_model_is_told_where_its_requests_stand(tmp_path: Path) -> None:
    """States are the backend's setting, controls are terms of requests; without batches a request is by itself."""
    config = """
      max_batch_size: 4
      sequence_batching {
        oldest { max_candidate_sequences: 4 preferred_batch_size: 2 max_queue_delay_microseconds: 100 }
        control_input [
          { name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] },
          { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] } ]
        state [{ input_name: "in" output_name: "out" data_type: TYPE_INT32 dims: [1, -1] }]
      }
    """
    model(tmp_path, "m", 1, config=config)
    got = served(tmp_path, "m")
    settings = got.versions[0].settings
    assert (settings["states"], settings["max_batch"], settings["batch_delay_ms"]) == ("in=out:1x1", "4", "0.1")
    assert [(each.name, each.kind, each.data_type) for each in got.terms.controls] == [
        ("START", Kinds.CONTROL_SEQUENCE_START, cp.TYPE_FP32),
        ("CORRID", Kinds.CONTROL_SEQUENCE_CORRID, cp.TYPE_UINT64),
    ]
    assert got.terms.sequences


REFUSED = {
    "torch": ('platform: "pytorch_libtorch"', "TorchScript is code that would run in the worker"),
    "python": ('backend: "python"', "a model.py is a program"),
    "tensorrt": ('platform: "tensorrt_plan"', "compiled for one GPU"),
    "none": ('backend: "magic"', "'magic' is none of inferd's"),
    "two kinds": ('platform: "onnxruntime_onnx" backend: "inferd"', "they must be of one kind"),
    "another name": ('name: "other"', "directory name must equal model name"),
    "unknown field": ("max_batch: 3", 'has no field named "max_batch"'),
    "no text": ("}{", "is no configuration"),
    "a path": ('default_model_filename: "../secret"', "must be the name of a file"),
    "a folder up": ('default_model_filename: ".."', "must be the name of a file"),
    "no such file": ('default_model_filename: "other.onnx"', "unable to find"),
    "negative": ("max_batch_size: -1", "max_batch_size is -1"),
    "no type": ('input [{ name: "x" dims: [1] }]', "input[0] must specify 'data_type'"),
    "a number for a type": ('output [{ name: "x" data_type: -1 }]', "output[0] must specify 'data_type'; it is -1"),
    "no name": ("input [{ data_type: TYPE_FP32 }]", "input[0] must specify 'name'"),
    "sizes": ('input [{ name: "x" data_type: TYPE_FP32 dims: [0] }]', "dimension must be integer >= 1"),
    "no such control": (
        'sequence_batching { control_input [{ name: "S" control [{ kind: 9 int32_false_true: [0, 1] }] }] }',
        "is of no kind that there is: 9",
    ),
    "ragged": (
        'input [{ name: "x" data_type: TYPE_FP32 allow_ragged_batch: true }]',
        "allow_ragged_batch is not offered",
    ),
    "reshape": ('input [{ name: "x" data_type: TYPE_FP32 reshape { shape: [1] } }]', "input[0].reshape is not offered"),
    "agents": ('model_repository_agents { agents [{ name: "checksum" }] }', "agents change or check"),
    "libraries": ('model_operations { op_library_filename: "evil.so" }', "no library of a repository is loaded"),
    "preferred": ("max_batch_size: 2 dynamic_batching { preferred_batch_size: 3 }", "preferred_batch_size has 3"),
    "delay": ("max_batch_size: 2 dynamic_batching { max_queue_delay_microseconds: 99999999 }", "at most 60000000"),
    "priority": (
        "dynamic_batching { default_priority_level: 1 }",
        "default_priority_level is 1 and priority_levels is 0",
    ),
    "kinds": ("instance_group [{ kind: KIND_CPU }, { kind: KIND_GPU }]", "groups of several kinds"),
    "level": ("optimization { graph { level: 9 } }", "level is 9"),
    "accelerator": (
        'optimization { execution_accelerators { gpu_execution_accelerator { name: "x" } } }',
        "must be one of tensorrt, openvino",
    ),
    "iterative": ("sequence_batching { iterative_sequence: true }", "iterative_sequence is not offered"),
    "state names": ('sequence_batching { state [{ input_name: "a=b" output_name: "c" }] }', "has a name with one of"),
    "a state from a file": (
        'sequence_batching { state [{ input_name: "a" output_name: "b" initial_state { data_file: "f" } }] }',
        "begins with zeros",
    ),
    "two controls": (
        'sequence_batching { control_input [{ name: "S" control [{ kind: CONTROL_SEQUENCE_START }] }] }',
        "must have two values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_in_words(tmp_path: Path, case: str) -> None:
    """What would change results, run code or lead elsewhere is refused, with the field and what helps."""
    config, words = REFUSED[case]
    model(tmp_path, "m", 1, config=config)
    assert words in refusal(tmp_path, "m")


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    """A folder, a configuration, a version or a file that is a link out of the repository is told and not followed."""
    outside, root = tmp_path / "outside", tmp_path / "models"
    model(outside, "theirs", 1, config="max_batch_size: 1")
    for name in ("config", "version", "file", "inner"):
        model(root, name, 1)
    (root / "whole").symlink_to(outside / "theirs")
    (root / "config" / "config.pbtxt").symlink_to(outside / "theirs" / "config.pbtxt")
    (root / "version" / "2").symlink_to(outside / "theirs" / "1")
    (root / "file" / "1" / "weights.bin").symlink_to(outside / "theirs" / "1" / "model.onnx")
    (root / "inner" / "2").symlink_to(root / "inner" / "1")
    (root / "loop").symlink_to(root / "loop")
    whys = {name: each.why for name, each in scan(root, most=10).items()}
    for name in ("whole", "config", "version", "file"):
        assert "a link that leads out of the repository" in whys[name]
        assert str(outside) not in whys[name]
    assert "cannot be read" in whys["loop"]
    assert not whys["inner"]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe in the place of a configuration or a model's file is refused, and waited for by nobody."""
    model(tmp_path, "m", 1)
    os.mkfifo(tmp_path / "m" / "config.pbtxt")
    assert "no regular file" in look(tmp_path.resolve(), "m").why
    with pytest.raises(InvalidFieldError, match="no regular file"):
        read_config(tmp_path / "m" / "config.pbtxt", most_bytes=MOST)


def test_names_are_those_of_models(tmp_path: Path) -> None:
    """A folder whose name no model may have, or that has a version in it, is told with the rule."""
    for name in ("a b", "a:1", "-ok"):
        model(tmp_path, name, 1)
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    found = scan(tmp_path, most=10)
    assert {name for name, each in found.items() if "its name is none" in each.why} == {"a b", "a:1", "\ufffd"}
    assert not found["-ok"].why


def test_what_is_looked_at_is_bounded(tmp_path: Path) -> None:
    """More folders than may be are not looked at; a deep one is told."""
    for number in range(5):
        model(tmp_path, f"m{number}", 1)
    (tmp_path / "m0" / "1" / "a" / "b" / "c" / "d").mkdir(parents=True)
    found = scan(tmp_path, most=3)
    assert list(found) == ["m0", "m1", "m2"]
    assert "more than 4 folders deep" in found["m0"].why


def test_a_changed_file_is_another_state(tmp_path: Path) -> None:
    """The state of a folder differs once a file of any version, or the configuration, is otherwise."""
    path = model(tmp_path, "m", 1, 2)
    states = [look(tmp_path, "m").state]
    (path / "1" / "more.bin").write_text("x")
    states.append(look(tmp_path, "m").state)
    (path / "1" / "more.bin").write_text("xx")
    states.append(look(tmp_path, "m").state)
    (path / "config.pbtxt").write_text("max_batch_size: 1")
    states.append(look(tmp_path, "m").state)
    assert len(set(states)) == 4
    assert look(tmp_path, "m").state == states[-1]


HOSTILE = {
    "large": "#" * (MOST + 1),
    "deep": "instance_group { rate_limiter { " * 500,
    "deep unknown": "unknown { " * 2000,
    "numbers": f"max_batch_size: {'9' * 3000}",
    "no number": "max_batch_size: nan",
    "strings": 'name: "' + "\\x" * 900,
    "extension": "[type.googleapis.com/inference.ModelConfig] { name: 'x' }",
    "bytes": "name: '\\377\\376'",
    "nothing": "\0\0\0",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configurations_are_refused(tmp_path: Path, case: str) -> None:
    """Whatever a configuration holds, it is refused as one, in a line that is bounded."""
    path = tmp_path / "config.pbtxt"
    path.write_text(HOSTILE[case])
    with pytest.raises(InvalidFieldError) as caught:
        read_config(path, most_bytes=MOST)
    assert caught.value.field == "config"
    assert len(caught.value.message) < 600


def test_configurations_are_given_as_json_too() -> None:
    """Names are those of the text or in camel case; what is none, or too large, is refused as an override."""
    assert parse_json('{"max_batch_size": 3}', most_bytes=MOST) == parse_text("max_batch_size: 3")
    assert parse_json('{"maxBatchSize": 3}', most_bytes=MOST).max_batch_size == 3
    for wrong in ("", "[]", '{"x": 1}', '{"name": 1}', "[" * 3000, '{"max_batch_size": 1e99}'):
        with pytest.raises(InvalidFieldError, match="Invalid config override"):
            parse_json(wrong, most_bytes=MOST)
    with pytest.raises(InvalidFieldError, match="config_bytes"):
        parse_json('{"name": "' + "x" * MOST + '"}', most_bytes=MOST)


PROGRAM = 'backend: "python" input { name: "x" data_type: TYPE_FP32 dims: 1 }'


@pytest.mark.parametrize(
    ("own", "given", "words"),
    [
        (
            PROGRAM,
            PROGRAM + ' default_model_filename: "train.py"',
            "'train.py' and in the model's folder it is 'model.py'",
        ),
        (PROGRAM, PROGRAM + " version_policy { specific { versions: 1 } }", "version_policy is another one"),
        ('backend: "onnxruntime"', PROGRAM, "a program that would run on this host"),
    ],
)
def test_a_load_does_not_choose_which_program_is_run(tmp_path: Path, own: str, given: str, words: str) -> None:
    """File, version and kind of what is run are those of the folder's configuration; all else a load may change."""
    for version in (1, 2):
        model(tmp_path, "m", version, file="model.py")
        (tmp_path / "m" / str(version) / "train.py").write_text("print()")
    folder = look(tmp_path.resolve(), "m")
    with pytest.raises(InvalidFieldError, match=words):
        served_of(folder, parse_text(given), most_versions=16, programs=["m"], own=parse_text(own))
    changed = parse_text(PROGRAM + " max_batch_size: 4")
    assert served_of(folder, changed, most_versions=16, programs=["m"], own=parse_text(PROGRAM)).number == 2
