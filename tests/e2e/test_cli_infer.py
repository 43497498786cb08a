"""`inferd infer`, and the signature in `inferd show`, against a kernel with the fake backend."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import Client

pytestmark = pytest.mark.e2e

Commands = Callable[..., Result]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that knows a model of each kind by its name."""
    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(folder, environment={"INFERD_BACKENDS": "[]"}) as kernel, Client(kernel.address) as client:
        for name in ("add", "accumulate", "repeat", "types"):
            client.create_model(name, source=str(write_fake_model(folder, name, tensor=name)))
        path = write_fake_model(folder, "stretch", tensor="stretch", most_batch=8)
        client.create_model("stretch", source=str(path))
        client.create_model("text", source=str(write_fake_model(folder, "text")))
        yield kernel


@pytest.fixture
def inferd(served: KernelProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands against it."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main.app, [*arguments, "--address", served.address])


def values(done: Result) -> dict[str, object]:
    """The outputs of a command with `-o json`."""
    assert done.exit_code == 0, done.stdout + done.stderr
    return {name: each["values"] for name, each in json.loads(done.stdout)["outputs"].items()}


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        ("1,2,3", "10,20,30", [[11, 22, 33]]),
        ("1", "-2.5e1", [[-24]]),
        ("[[1, 2], [3, 4]]", "[[1, 1], [1, 1]]", [[2, 3], [4, 5]]),
        ("[1, 2]", "nan,-inf", [["NaN", "-Infinity"]]),
        ("@a.npy", "@b.npy", [[1, 2]]),
    ],
)
def test_values_are_read_by_the_signature(inferd: Commands, tmp_path: Path, a: str, b: str, total: object) -> None:
    """Numbers with commas, JSON lists and files of numpy become what the model takes, in its type and rank."""
    np.save(tmp_path / "a.npy", np.array([[1, 2]], np.int16))
    np.save(tmp_path / "b.npy", np.zeros((1, 2), np.float64))
    assert values(inferd("infer", "add", f"a={a}", f"b={b}", "--only", "sum", "-o", "json")) == {"sum": total}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("string", "héllo, wörld", ["héllo, wörld"]),
        ("string", '["a", "b"]', ["a", "b"]),
        ("string", "@words.txt", ["some\nwords"]),
        ("bool", "true,0,FALSE,1", [True, False, False, True]),
        ("int64", f"{2**63 - 1}, -0x10", [2**63 - 1, -16]),
        ("uint8", "255", [255]),
        ("complex64", "1+2j", [[1.0, 2.0]]),
        ("float16", "[[0.5], [1]]", [[0.5], [1.0]]),
        ("float", "[]", []),
    ],
)
def test_types(inferd: Commands, tmp_path: Path, name: str, text: str, expected: object) -> None:
    """Each type is written as it is read; a text is one element as it stands."""
    (tmp_path / "words.txt").write_text("some\nwords")
    assert values(inferd("infer", "types", f"{name}={text}", "--only", name, "-o", "json")) == {name: expected}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("add", "c=1"), "no input 'c'. It has: a FLOAT"),
        (("add", "a=1,x", "b=1"), "'1,x' is no value of a FLOAT[batch, width]"),
        (("accumulate", "x=1,2,3", "before=0,0"), "3 elements do not make x FLOAT[batch, 2]"),
        (("types", "uint8=256"), "no value of uint8"),
        (("types", "int8=[1.5]"), "float64; the model takes int8 INT8"),
        (("types", "bfloat16=1"), "numpy does not have"),
        (("add", "a=1e50", "b=1"), "'1e50' is no value of a FLOAT[batch, width]: 1e+50 is outside of float32"),
        (("add", "a=[1e50]", "b=1"), "1e+50 is outside of float32"),
        (("add", "a=[1e400]", "b=1"), "1e400 is outside of float64"),
        (("add", "a=1e400", "b=1"), "1e400 is outside of float64"),
        (("add", "a=@large.npy", "b=1"), "1e+50 is outside of float32"),
        (("types", "int8=@wide.npy"), "a number is outside of int8"),
        (("add", "a=@words.txt", "b=1"), "no array of numpy: it is another file"),
        (("add", "a=@objects.npy", "b=1"), "holds objects of Python, which are never read"),
        (("add", "a=@none.npy", "b=1"), "none.npy of input 'a' cannot be read: No such file"),
        (("types", "string=@bytes.txt"), "bytes.txt of input 'string' is no UTF-8 text"),
        (("add", "a=1"), "'b' is missing"),
        (("text", "a=1"), "reads text"),
    ],
)
def test_mistakes_are_told(inferd: Commands, tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    """What cannot be a value of an input is an error with both, and exit code 1."""
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    np.save(tmp_path / "large.npy", np.array([[1e50]]))
    np.save(tmp_path / "wide.npy", np.array([300]))
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    done = inferd("infer", *arguments)
    assert done.exit_code == 1, done.stdout
    assert why in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a=1", "a=2", "b=1"), "'a' is given twice"),
        (("a=1", "b=1", "--save", "none/out.npz"), "none/out.npz cannot be written: there is no folder none"),
        (("a=1", "b=1", "--save", "."), ". is a folder; name a file"),
    ],
)
def test_mistakes_of_use_are_told_before_the_work(inferd: Commands, arguments: tuple[str, ...], why: str) -> None:
    """An input given twice, and a place where nothing can be saved, are mistakes of use; nothing is computed."""
    error = json.loads(inferd("infer", "add", *arguments, "-o", "json").stdout)["error"]
    assert (error["reason"], error["code"], why in error["message"]) == ("USAGE", "INVALID_ARGUMENT", True)


def test_a_model_whose_first_load_is_refused_is_forgotten(
    inferd: Commands, served: KernelProcess, tmp_path: Path
) -> None:
    """A file that cannot be loaded leaves no model behind; one that was known before stays."""
    path = write_fake_model(tmp_path, "typo", tensor="add")
    (tmp_path / "typo.recipe.toml").write_text('[input.any]\ntakes = "fiel"\n')
    with Client(served.address) as client:
        before = [model.name for model in client.list_models()]
        commands = [("infer", str(path), "a=1"), ("load", str(path))]
        commands += [(name, str(path), "Hi") for name in ("run", "embed", "tokenize")]
        for command in commands:
            error = json.loads(inferd(*command, "-o", "json").stdout.splitlines()[-1])["error"]
            assert error["reason"] == "MODEL_LOAD_FAILED"
            assert [model.name for model in client.list_models()] == before
        broken = tmp_path / f"broken{path.suffix}"
        broken.write_text("[")
        error = json.loads(inferd("plan", str(broken), "-o", "json").stdout.splitlines()[-1])["error"]
        assert error["reason"] == "MODEL_LOAD_FAILED"
        assert inferd("plan", str(write_fake_model(tmp_path, "sound"))).exit_code == 0
        assert [model.name for model in client.list_models()] == before
        client.create_model("known", source=str(path))
        assert inferd("infer", "known", "a=1").exit_code == 1
        assert "known" in [model.name for model in client.list_models()]
        client.unload_model("known")
        client.delete_model("known")


def test_files_as_a_recipe_takes_them(inferd: Commands, served: KernelProcess, tmp_path: Path) -> None:
    """A model of any backend with a recipe beside it takes files as they are, shows that, and saves one array."""
    path = write_fake_model(tmp_path, "ends", tensor="identity")
    (tmp_path / "ends.recipe.toml").write_text('[input.any]\ntakes = "file"\ngives = "x"\nlast = 3\n')
    with Client(served.address) as client:
        client.create_model("ends", source=str(path))
    np.save(tmp_path / "a.npy", np.array([1, 2], np.uint8))
    assert values(inferd("infer", "ends", "any=@a.npy", "-o", "json")) == {"y": [[10.0, 1.0, 2.0]]}
    assert values(inferd("infer", "ends", "any=1,2,3,4", "-o", "json")) == {"y": [[2.0, 3.0, 4.0]]}
    assert "any UINT8[bytes]" in inferd("show", "ends").stdout
    assert inferd("infer", "ends", "any=@a.npy", "--save", "out.npy").exit_code == 0
    assert np.load(tmp_path / "out.npy").tolist() == [[10, 1, 2]]
    done = inferd("infer", "add", "a=1", "b=1", "--save", "out.npy")
    assert (done.exit_code, "the model gave 2" in " ".join(done.stderr.split())) == (1, True)
    (tmp_path / "ends.recipe.toml").write_text('[input.any]\ntakes = "fiel"\n')
    done = inferd("infer", str(path), "any=1")
    assert "recipe.toml:2: 'input.any.takes' is 'fiel'" in " ".join(done.stderr.split())
    talks = write_fake_model(tmp_path, "talks")
    (tmp_path / "talks.recipe.toml").write_text('[input.any]\ntakes = "file"\nlast = 3\n')
    done = inferd("run", str(talks), "Hello")
    assert "talks.recipe.toml is for models of tensors" in " ".join(done.stderr.split())


def test_hints(inferd: Commands, tmp_path: Path) -> None:
    """A file without its @, a graph whose folder has a recipe, and a model that reads no text are told with the fix."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    path = write_fake_model(folder, "model", tensor="add")
    (folder / "recipe.toml").write_text('[input.image]\ntakes = "image"\ngives = "a"\n')
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for arguments, why in (
        (
            ("infer", "add", "a=a.wav", "b=1"),
            "is no value of a FLOAT[batch, width]; for the file of that name write a=@a.wav",
        ),
        (("infer", str(path), "image=1"), f"has a recipe.toml, which is read where the folder is named: {folder}"),
        (("run", "add", "Hello"), "reads no text; ask it with: inferd infer add INPUT=VALUE; inferd show add tells"),
        (("run", "add", "Hello", "--raw"), "reads no text; ask it with: inferd infer add INPUT=VALUE"),
    ):
        done = inferd(*arguments)
        said = " ".join(done.stderr.split())
        assert (done.exit_code, why in said, "no chat template" in said) == (1, True, False), said


def test_a_table_a_file_and_a_stream(inferd: Commands, tmp_path: Path) -> None:
    """Outputs are shown as a table, sets of them one after the other, and saved as a file of numpy."""
    done = inferd("infer", "add", "a=1,2", "b=3,4", "--save", "out.npz")
    assert done.exit_code == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["OUTPUT", "TYPE", "SHAPE", "VALUES"],
        ["sum", "float32", "[1,", "2]", "4.0,", "6.0"],
        ["rows", "float32", "[1]", "1.0"],
    ]
    with np.load(tmp_path / "out.npz") as saved:
        assert {name: saved[name].tolist() for name in saved} == {"sum": [[4, 6]], "rows": [1]}
    done = inferd("infer", "repeat", "count=3", "--save", "sets.npz", "-o", "json")
    told = [json.loads(line)["outputs"]["y"]["values"] for line in done.stdout.splitlines()]
    assert told == [0, 1, 2]
    with np.load(tmp_path / "sets.npz") as saved:
        assert [saved[f"{n}.y"].item() for n in range(3)] == [0, 1, 2]


def test_sequences(inferd: Commands) -> None:
    """A sequence is begun, gone on with and ended from command to command."""
    options = ("infer", "accumulate", "x=1,2", "-o", "json", "--sequence", "s")
    assert values(inferd(*options, "--start")) == {"total": [[1, 2]]}
    assert values(inferd(*options)) == {"total": [[2, 4]]}
    assert values(inferd(*options, "--end")) == {"total": [[3, 6]]}
    assert "it has ended" in inferd(*options).stdout
    assert inferd("infer", "accumulate", "x=1,2", "--start").exit_code == 2


def test_show_tells_the_signature(inferd: Commands) -> None:
    """A loaded model of tensors is shown with what it takes and gives; for one that is not loaded nothing is loaded."""
    inferd("load", "accumulate")
    lines = " ".join(inferd("show", "accumulate").stdout.split())
    for part in ("input x FLOAT[batch, 2]", "output total FLOAT[batch, 2]", "state after becomes before"):
        assert part in lines
    assert json.loads(inferd("show", "accumulate", "-o", "json").stdout)["signature"]["most_batch"] == 1
    inferd("load", "stretch")
    lines = " ".join(inferd("show", "stretch").stdout.split())
    assert "batch up to 8 rows of several tasks at once, 8 of them without waiting, each waits 2 ms at most" in lines
    assert "padding x:1 with 0; cut back: y:1" in lines
    assert json.loads(inferd("show", "stretch", "-o", "json").stdout)["effective_sampling"] == {}
    inferd("unload", "accumulate")
    assert json.loads(inferd("show", "accumulate", "-o", "json").stdout)["signature"] is None
    inferd("load", "text")
    assert json.loads(inferd("show", "text", "-o", "json").stdout)["signature"] is None
