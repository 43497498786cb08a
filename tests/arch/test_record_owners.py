"""Each record of what the engine computes is written in one module, by whose verbs all others change it."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TOKEN = Path(__file__).parents[2] / "kernel/inferd/engine/token"
TREES = {path.stem: ast.parse(path.read_text()) for path in sorted(TOKEN.glob("*.py"))}
RECORDS = {
    "Sequence": "sequence",
    "Place": "place",
    "PromptReport": "report",
    "PromptScores": "scores",
    "PromptPool": "embedding",
    "Samples": "samples",
    "Turn": "turns",
    "Hold": "holds",
    "PrefixChain": "prefix",
    "Drafter": "drafts",
    "Step": "step",
}
"""What a sequence, its task and a step consist of, each with the module that writes it."""

PLACE_WRITERS = {"places", "samples"}
MOST_ATTRIBUTES = 20


def attributes(record: ast.ClassDef) -> set[str]:
    """The attributes of a class: its slots, its fields, and what it assigns to `self`."""
    found = {field.target.id for field in record.body if isinstance(field, ast.AnnAssign) if named(field.target)}
    for node in record.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__slots__"]:
            found |= set(ast.literal_eval(node.value))
    return found | {target.attr for target in assigned(record) if ast.unparse(target.value) == "self"}


def named(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute of something that is assigned or deleted, in whatever kind of statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield node


def classes(tree: ast.Module) -> Mapping[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def intruders(trees: Mapping[str, ast.Module]) -> list[str]:
    """Where an attribute of a record is assigned outside of its module, unless a class beside has one of that name."""
    owners = defaultdict[str, set[str]](set)
    for record, module in RECORDS.items():
        for name in attributes(classes(TREES[module])[record]):
            owners[name].add(module)
    found = []
    for module, tree in trees.items():
        own = set[str]().union(*map(attributes, classes(tree).values()))
        for target in assigned(tree):
            foreign = ast.unparse(target.value) != "self" and target.attr not in own
            if foreign and target.attr in owners and module not in owners[target.attr]:
                found.append(f"{module}:{target.lineno} {ast.unparse(target)}")
        found += [
            f"{module}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and named(node.func) and node.func.id in {"setattr", "delattr"}
        ]
    return found


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_small_and_has_one_module(record: str) -> None:
    """Each record is defined in the module that writes it, and has few attributes."""
    assert record in classes(TREES[RECORDS[record]])
    assert len(attributes(classes(TREES[RECORDS[record]])[record])) <= MOST_ATTRIBUTES


def test_records_are_written_by_their_module_alone() -> None:
    """No module of the engine assigns an attribute of a record that another module writes."""
    assert not intruders(TREES)


@pytest.mark.parametrize(
    "line",
    [
        "sequence.place.row = 1",
        "each.finish = None",
        "a.length += 1",
        "step.alone = 1",
        "task.leader.report.scores, x = None, 1",
        "del turn.order",
        "for hold.kept_rows in (): pass",
        "setattr(sequence, 'rank', 1)",
    ],
)
def test_an_intruder_is_found(line: str) -> None:
    """An assignment to a record in a foreign module is seen, in whatever form."""
    assert len(intruders({"elsewhere": ast.parse(line)})) == 1


def test_a_place_is_changed_by_those_who_give_it() -> None:
    """What changes a place is called by `Places`, and where a task that was begun elsewhere comes in."""
    place = classes(TREES["place"])["Place"]
    verbs = {each.name for each in place.body if isinstance(each, ast.FunctionDef) and not each.decorator_list}
    callers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in verbs
        and ast.unparse(node.func.value).rpartition(".")[2] == "place"
    }
    assert callers == PLACE_WRITERS
