"""Files of the onnx backend: external data stays in its folder, damage is told, large and compiled files load."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx
import onnx_fuzz
import onnx_models as models
import onnx_seeds
from onnx import TensorProto, helper

from inferd.plugin import LoadError
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.model_file import read_model_file

WEIGHT = np.arange(8, dtype=np.float32).reshape(4, 2)


def external(location: str, name: str = "weight", shape: tuple[int, ...] = (4, 2), **places: int) -> TensorProto:
    """A weight in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **places}.items():
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def save_gather(path: Path, weight: TensorProto) -> Path:
    """A model that looks rows of a weight up."""
    node = helper.make_node("Gather", ["weight", "x"], ["y"])
    inputs = [models.value("x", TensorProto.INT64, ["n"])]
    return models.save(path, [node], inputs, [models.value("y", weight.data_type, ["n", *weight.dims[1:]])], [weight])


def save_hidden(path: Path, weight: TensorProto) -> Path:
    """The same, with the weight in an attribute of a node in a subgraph of a function."""
    constant = helper.make_node("Constant", [], ["inner"], value=weight)
    branch = helper.make_graph([constant], "branch", [], [models.value("inner", 1, None)])
    node = helper.make_node("If", ["a"], ["b"], then_branch=branch, else_branch=branch)
    opsets = [helper.make_opsetid("", models.OPSET)]
    function = helper.make_function("own", "Choose", ["a"], ["b"], [node], opsets)
    graph = helper.make_graph(
        [helper.make_node("Choose", ["x"], ["y"], domain="own")],
        "small",
        [models.value("x", TensorProto.BOOL, [])],
        [models.value("y", 1, None)],
    )
    opsets = [*opsets, helper.make_opsetid("own", 1)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=models.IR, functions=[function]).SerializeToString()
    )
    return path


def save_sparse(path: Path, weight: TensorProto) -> Path:
    """The same, with the weight as the values of a sparse one."""
    indices = helper.make_tensor("indices", TensorProto.INT64, [8], list(range(8)))
    weight.dims[:] = [8]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["weight"], ["y"])], "small", [], [models.value("y", 1, [4, 2])]
    )
    graph.sparse_initializer.append(helper.make_sparse_tensor(weight, indices, [4, 2]))
    path.write_bytes(helper.make_model(graph, ir_version=models.IR).SerializeToString())
    return path


def save_default(path: Path, weight: TensorProto) -> Path:
    """The same, with the weight as what an attribute of a function is where it is not given."""
    opsets = [helper.make_opsetid("", models.OPSET)]
    constant = helper.make_node("Constant", [], ["inner"])
    constant.attribute.add(name="value", ref_attr_name="chosen", type=onnx.AttributeProto.TENSOR)
    node = helper.make_node("Add", ["a", "inner"], ["b"])
    default = helper.make_attribute("chosen", weight)
    function = helper.make_function("own", "Shift", ["a"], ["b"], [constant, node], opsets, attribute_protos=[default])
    graph = helper.make_graph(
        [helper.make_node("Shift", ["x"], ["y"], domain="own")],
        "small",
        [models.value("x", 1, [4, 2])],
        [models.value("y", 1, [4, 2])],
    )
    opsets = [*opsets, helper.make_opsetid("own", 1)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=models.IR, functions=[function]).SerializeToString()
    )
    return path


def message(number: int, content: bytes, above: int = 0) -> bytes:
    """A field that holds bytes, with bits of its key above the 32 that there are."""
    return varint((number << 3 | 2) + (above << 32)) + varint(len(content)) + content


def save_raw(path: Path, places: bytes) -> Path:
    """A model with a weight that is elsewhere, of which `places` is what the file says."""
    weight = TensorProto(name="weight", data_type=1, dims=(4, 2), data_location=TensorProto.EXTERNAL)
    graph = message(5, weight.SerializeToString() + places)
    path.write_bytes(b"\x08\x0a" + message(7, graph))
    return path


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def refusal(path: Path) -> str:
    """Why a file is refused."""
    with pytest.raises(LoadError) as caught:
        read_model_file(path)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a file beside it that is nobody's business."""
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    return folder


def test_external_data(folder: Path) -> None:
    """Weights in a file of the folder, or of one below it, are found, also from where a link within it leads."""
    for location, offset in (("weights.bin", 64), ("./weights.bin", 64), ("deep/more.bin", 0), ("link.bin", 64)):
        (folder / "deep" / "more.bin").write_bytes(WEIGHT.tobytes())
        (folder / "link.bin").unlink(missing_ok=True)
        (folder / "link.bin").symlink_to("weights.bin")
        path = save_gather(folder / "model.onnx", external(location, offset=offset, length=32))
        assert OnnxBackend().measure(models.request(folder)).weights_bytes == 32
        found = models.load(path).session.predict({"x": models.tensor([2, 0], models.ElementType.INT64)}, ["y"])["y"]
        assert found.array.tolist() == WEIGHT[[2, 0]].tolist()


def test_external_data_of_a_folder_of_links(folder: Path) -> None:
    """A folder of links, as Hugging Face's cache is one, finds weights beside the file that the model's link names."""
    blobs, snapshot = folder.parent / "blobs", folder.parent / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    save_gather(blobs / "aaa", external("model.onnx_data", offset=0, length=32))
    (blobs / "bbb").write_bytes(WEIGHT.tobytes())
    (snapshot / "model.onnx").symlink_to("../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../blobs/bbb")
    found = models.load(snapshot).session.predict({"x": models.tensor([2, 0], models.ElementType.INT64)}, ["y"])["y"]
    assert found.array.tolist() == WEIGHT[[2, 0]].tolist()
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to("../secret")
    with pytest.raises(LoadError, match="a symbolic link leads out of the model's folder"):
        models.load(snapshot)


@pytest.mark.parametrize("save", [save_gather, save_hidden, save_sparse, save_default])
@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret", "that leaves the model's folder"),
        ("deep/../../secret", "that leaves the model's folder"),
        ("..", "that leaves the model's folder"),
        ("/etc/hostname", "that leaves the model's folder"),
        ("link", "a symbolic link leads out of the model's folder"),
        ("away/secret", "a symbolic link leads out of the model's folder"),
        ("deep", "that is not a file"),
        ("", "that is no path of a file"),
        ("..\\secret", "that is no path of a file"),
        ("weights.bin\0/../../secret", "that is no path of a file"),
        ("*/_ORT_MEM_ADDR_/*", "that is no path of a file"),
        ("gone.bin", "cannot be read: No such file"),
        (
            "hard.bin",
            "that file has 2 names \\(hard links\\), and others may be outside of the folder; put a copy there",
        ),
    ],
)
def test_external_data_stays_in_the_folder(
    folder: Path, save: Callable[[Path, TensorProto], Path], location: str, why: str
) -> None:
    """A path out of the model's folder is refused before the runtime opens anything, wherever in the file it stands."""
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "away").symlink_to(folder.parent)
    (folder / "hard.bin").hardlink_to(folder.parent / "secret")
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(WEIGHT.tobytes())
    path = save(folder / "model.onnx", external(location))
    for ask in (read_model_file, models.load):
        with pytest.raises(LoadError, match=why) as caught:
            ask(path)
        assert str(caught.value).startswith(f"{path}: the data of tensor 'weight' in ")


def test_keys_that_libraries_cut_off(folder: Path) -> None:
    """A field whose key has more than 32 bits is refused: the runtime would see another one, and follow it."""
    place = message(1, b"location") + message(2, b"../secret")
    assert "leaves the model's folder" in refusal(save_raw(folder / "model.onnx", message(13, place)))
    for above in (1, 8, 1 << 20):
        path = save_raw(folder / "model.onnx", message(13, place, above))
        assert "it must be from 1 to 536870911" in refusal(path)
    for key in (b"\x02\x00", b"\x00\x00", b"\x82\x00\x00"):
        assert "has the number 0" in refusal(save_raw(path, key))


def test_names_that_are_no_utf8(folder: Path) -> None:
    """Where data is must be said in UTF-8: another file's name is not made of what is not."""
    (folder / "\ufffdx").write_bytes(WEIGHT.tobytes())
    (folder / os.fsdecode(b"\xffx")).symlink_to("../secret")
    path = save_raw(folder / "model.onnx", message(13, message(1, b"location") + message(2, b"\xffx")))
    assert "that is no UTF-8" in refusal(path)


def test_ort_in_capital_letters(folder: Path) -> None:
    """A file that is named .ORT, which the runtime reads as ONNX, is looked through, whatever it begins with."""
    place = message(13, message(1, b"location") + message(2, b"../secret"))
    path = save_raw(folder / "model.ORT", place)
    path.write_bytes(message(2, b"__ORTM") + path.read_bytes())
    assert path.read_bytes()[4:8] == b"ORTM"
    assert "leaves the model's folder" in refusal(path)


def test_many_entries(folder: Path) -> None:
    """Nodes, and what is said of a weight's place, are bounded; numbers and texts of a graph are gone over quickly."""
    path = folder / "model.onnx"
    path.write_bytes(message(7, b"\x0a\x00" * 500_001))
    assert "it has more than 500000 nodes, attributes and weights" in refusal(path)
    assert "more than 32 things" in refusal(
        save_raw(path, b"".join(message(13, message(1, b"%d" % n)) for n in range(40)))
    )
    trees = b"\x3d\x00\x00\x80\x3f" * 200_000 + b"\x40\xff\x01" * 200_000 + b"\x4a\x02no" * 200_000
    path.write_bytes(message(7, message(1, message(5, trees + b"\xa0\x01\x06"))))
    assert read_model_file(path).nodes == 1
    path.write_bytes(message(7, message(1, message(5, trees + b"\x3d\x00\x00"))))
    assert "is cut off" in refusal(path)


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({"offset": 72, "length": 32}, "ends at byte 104, but the file has 96"),
        ({"offset": 80}, "ends at byte 112, but the file has 96"),
        ({"offset": 0, "length": 16}, "has 16 bytes, but its type and shape take 32"),
        ({"offset": -1}, "offset is '-1'; it must be a number of bytes"),
        ({"length": "9" * 30}, "length is '9+'; it must be a number of bytes"),
        ({"offset": 1 << 62}, "ends at byte 4611686018427387936"),
    ],
)
def test_external_data_that_is_not_there(folder: Path, places: dict[str, int], why: str) -> None:
    """Data that lies behind the end of its file, or has another size than its shape, is refused with both numbers."""
    path = save_gather(folder / "model.onnx", external("weights.bin", **places))
    with pytest.raises(LoadError, match=why):
        OnnxBackend().measure(models.request(path))


def test_more_than_2_gib(folder: Path) -> None:
    """A model with 3 GiB of weights in another file loads, and its last row is what the file ends with."""
    rows, width = 3 << 20, 1024
    with (folder / "vast.bin").open("wb") as file:
        file.truncate(rows * width)  # a hole: it takes no room
        file.seek((rows - 1) * width)
        file.write(b"\7" * width)
    weight = external("vast.bin", shape=(rows, width), length=rows * width)
    weight.data_type = TensorProto.UINT8
    path = save_gather(folder / "model.onnx", weight)
    assert OnnxBackend().measure(models.request(path)).weights_bytes == 3 << 30
    session = models.load(path).session
    found = session.predict({"x": models.tensor([rows - 1, 5], models.ElementType.INT64)}, ["y"])["y"].array
    assert (set(found[0].tolist()), set(found[1].tolist())) == ({7}, {0})


def test_a_file_of_the_runtime_itself(tmp_path: Path) -> None:
    """An .ort file is measured by its size, loads and computes as the model that it was made of."""
    path, compiled = tmp_path / "model.onnx", tmp_path / "model.ort"
    path.write_bytes(onnx_seeds.linear().SerializeToString())
    compiled.write_bytes(onnx_seeds.to_ort(onnx_seeds.linear()))
    assert OnnxBackend().measure(models.request(compiled)).weights_bytes == compiled.stat().st_size
    given = {"x": models.tensor(np.ones((2, 4)))}
    one, other = models.load(path), models.load(compiled)
    assert other.session.signature == one.session.signature
    found, expected = (each.session.predict(given, ["y"])["y"].array for each in (other, one))
    np.testing.assert_array_equal(found, expected)
    assert (other.description.weight_format, other.description.compute_format[-3:]) == ("ORT", "cpu")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"hello, world", "is no sound ONNX file"),
        (b"\x08\x0a", "it has 0 graphs"),
        (b"\x3a\x00\x3a\x00", "it has 2 graphs"),
        (b"\x3a\xff\xff\xff\xff\x0f", "field 7 at byte 6 has 4294967295 bytes, but 0 are left"),
        (b"\x3a" + b"\xff" * 20, "a number at byte 1 does not end"),
        (b"\x3b", "is of the unknown kind 3"),
        (b"\x02\x00", "has the number 0"),
        (b"\x39\x00", "field 7 is cut off"),
        (b"\x3a\x00", "Missing opset in the model"),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    """What is no ONNX file, or half of one, is a LoadError that names the file and what is wrong there."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=f"{path}.*{why}"):
        models.load(path)


def test_what_is_no_file_of_the_runtime(tmp_path: Path) -> None:
    """An .ort file that does not begin as one is refused before it is loaded, and one that is cut off when it is."""
    path = tmp_path / "model.ort"
    path.write_bytes(b"hello, world")
    with pytest.raises(LoadError, match=f"{path} is no sound ONNX file: bytes 4 to 7 of an .ort file are b'ORTM'"):
        OnnxBackend().measure(models.request(path))
    path.write_bytes(onnx_seeds.to_ort(onnx_seeds.linear())[:-100])
    with pytest.raises(LoadError, match=f"{path}"):
        models.load(path)


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    """A size, an input or an output whose name is not UTF-8 cannot be told to anybody, and is refused at the load."""
    path = models.save_identity(tmp_path / "model.onnx", shape=["length", 2])
    path.write_bytes(path.read_bytes().replace(b"length", b"\xe3\xff\xfength"[:6]))
    with pytest.raises(LoadError, match=f"{path}: a name of an input, an output or a size is not Unicode"):
        models.load(path)


def test_other_refusals(tmp_path: Path) -> None:
    """Graphs that nest too deep, sizes below zero, compiled engines and folders without a model are refused."""
    path = tmp_path / "model.onnx"
    content = b""
    for _ in range(40):  # a graph in an attribute of a node
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + varint(len(content)) + content
    path.write_bytes(b"\x3a" + varint(len(content)) + content)
    with pytest.raises(LoadError, match="graphs stand 33 deep in each other; at most 32"):
        models.load(path)
    save_gather(path, TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[-4, 2]))
    with pytest.raises(LoadError, match="a weight has a size of -4"):
        models.load(path)
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/hostname")
    models.save(path, [node], [models.value("x", 1, ["n"])], [models.value("y", 1, ["n"])])
    with pytest.raises(LoadError, match=f"{path} holds an engine that was compiled for one machine"):
        models.load(path)
    path.unlink()
    with pytest.raises(LoadError, match=f"{path} cannot be read: No such file"):
        models.load(tmp_path)
    path.mkdir()
    with pytest.raises(LoadError, match="cannot be read: Is a directory"):
        models.load(tmp_path)


def test_an_operator_that_is_not_known(tmp_path: Path) -> None:
    """What the runtime does not compute is refused with the operator's name."""
    path, value = tmp_path / "model.onnx", models.value
    node = helper.make_node("Teleport", ["x"], ["y"], domain="example")
    graph = helper.make_graph([node], "small", [value("x", 1, ["n"])], [value("y", 1, ["n"])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(LoadError, match="Teleport"):
        models.load(path)


def test_damaged_files_in_one_process() -> None:
    """Hundreds of damaged files after each other leave a process that still loads: only LoadErrors refuse them."""
    tally = onnx_fuzz.through_children(seed=16, cases=200)
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.cases == 200
    assert min(tally.outcomes["loaded"], tally.outcomes["refused"]) > 20
