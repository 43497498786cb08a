"""A parameter of sampling stands in few places, so that a new one is a small change."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from inferd_api.v1.sampling_pb2 import SamplingParams

ROOT = Path(__file__).parents[2]
FOLDERS = ("clients", "kernel", "plugins", "protos")
MADE = {"node_modules", "dist", "build", "gen"}
"""Folders that building the clients makes."""
FIELDS = [field.name for field in SamplingParams.DESCRIPTOR.fields]
MOST = 4  # the proto, the keywords of the client, the table of `inferd.sampling`, and what the engine does with it

EVERYDAY = {"n", "seed", "stop", "echo", "grammar", "logprobs", "prompt_logprobs"}
"""Words for other things as well: they count as fields of something that is called sampling or options."""

BACKENDS = ("plugins/", "kernel/inferd/plugin/session.py")
"""A backend may choose tokens itself by those parameters that `DeviceSampling` has, in a language of its own. None has
to: rows with any other parameter are chosen for by the engine."""

INTERFACES = ("kernel/inferd/http/", "kernel/inferd/services/inference/")
"""Other interfaces have names of their own, which are translated there; whatever has the kernel's name is passed on."""

EXAMPLES = "/example/"
"""Programs that show how a client is used; clients in other languages have the fields from the generated code."""

ELSEWHERE = {
    "kernel/inferd/runtime/catalogue.py": "data: what the authors of a model advise",
    "kernel/inferd/plugin/asking.py": "the interface by which functions ask models, in words of its own",
    "kernel/inferd/testing/functions.py": "functions of tests, which ask models",
    "kernel/inferd/testing/contract.py": "tests that every backend runs",
}

MORE = {
    "max_tokens": 8,  # inferd's own clients have a default and the word "all" for it, and `Demand` takes it
    "grammar": 6,  # is a language of its own, which is followed by files of its own; pipelines are declared with it
}
"""Fields that stand in more files."""

KNOWN = set(FIELDS)
QUALIFIED = re.compile(r"^.*sampling\w*\.(?=\w+$)", re.IGNORECASE)
OWNERS = re.compile(r"sampling|options|asked|given|^s$|^params$", re.IGNORECASE)


def names_in_python(text: str) -> set[str]:
    """The fields that code names; comments, docstrings and imports are no code."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=owner, attr=name) if name in KNOWN:
                found |= {name} if name not in EVERYDAY or OWNERS.search(ast.unparse(owner).split(".")[-1]) else set()
            case ast.Name(id=name) | ast.arg(arg=name) if name not in EVERYDAY:
                found.add(name)
            case ast.keyword(arg=str(name)) if name not in EVERYDAY:
                found.add(name)
            case ast.Call(func=called, keywords=keywords) if KNOWN & {each.arg for each in keywords}:
                found |= {each.arg for each in keywords if each.arg} if OWNERS.search(ast.unparse(called)) else set()
            case ast.ClassDef(name=owner, body=body) if OWNERS.search(owner):
                found |= {ast.unparse(each.target) for each in body if isinstance(each, ast.AnnAssign)}
            case ast.Constant(value=str(said)) if not said.count("\n"):
                found |= {said} - (EVERYDAY - {"n"})
                found |= {QUALIFIED.sub("", said)} if QUALIFIED.search(said) else set()
    return found & KNOWN


def names_in_proto(text: str) -> set[str]:
    """The fields that messages about sampling have."""
    bodies = re.findall(r"^message \w*Sampling\w* \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    return {name for body in bodies for name in re.findall(r"(\w+) = \d+", body)} & set(FIELDS)


def names_in_cpp(text: str) -> set[str]:
    """The fields that C++ names, comments apart."""
    return {name for name in set(FIELDS) - EVERYDAY if re.search(rf"\b{name}\b", re.sub(r"//.*", "", text))}


READERS = {".py": names_in_python, ".proto": names_in_proto, ".cpp": names_in_cpp, ".h": names_in_cpp}


@cache
def places() -> dict[str, set[str]]:
    """The hand-written files that name each field."""
    found: dict[str, set[str]] = {name: set() for name in FIELDS}
    for path in [each for folder in FOLDERS for each in (ROOT / folder).rglob("*") if not MADE & {*each.parts}]:
        place, read = path.relative_to(ROOT).as_posix(), READERS.get(path.suffix)
        if read is None or "_pb2" in path.name or place.startswith((*BACKENDS, *INTERFACES)) or place in ELSEWHERE:
            continue
        if EXAMPLES in place or place.startswith("clients/cpp/"):
            continue
        for name in read(path.read_text(encoding="utf-8")):
            found[name].add(place)
    return found


@pytest.mark.parametrize("name", FIELDS)
def test_a_parameter_stands_in_few_files(name: str) -> None:
    """Whatever chooses tokens is written down in four files: a new parameter touches no more."""
    assert len(places()[name]) <= MORE.get(name, MOST), sorted(places()[name])
    assert "kernel/inferd/sampling.py" in places()[name]
    assert "protos/inferd_api/v1/sampling.proto" in places()[name]


@pytest.mark.parametrize(
    "code",
    [
        "x.min_p",
        "min_p = 1",
        "def f(min_p): ...",
        "f(min_p=1)",
        "f('min_p')",
        "f('spec.sampling.min_p')",
        "f('inferd.v1.SamplingParams.min_p')",
        "class Filters:\n    min_p: int",
        "sampling.n",
        "Sampling(n=1)",
        "self.given.get('n')",
        "class RunOptions:\n    n: int",
    ],
)
def test_every_way_to_name_a_parameter_is_seen(code: str) -> None:
    """Attributes, variables, arguments, keywords, texts and fields of classes count; what is said of them does not."""
    assert names_in_python(code) in ({"min_p"}, {"n"})
    assert not names_in_python(f'"""Of\n{code}"""  # {code!r}')


def test_a_message_or_c_code_that_repeats_a_parameter_is_seen() -> None:
    """A second message about sampling, and backends' languages, are read, too."""
    assert names_in_proto("message DeviceSampling {\n  float min_p = 3;\n}\n") == {"min_p"}
    assert names_in_cpp("const double min_p;  // top_p") == {"min_p"}
