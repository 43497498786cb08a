"""Prints which architectures and formats of numbers llama.cpp names and the `cpu` backend does not take, as tables.

    .venv/bin/python tests/reference/compare_with_llama_cpp.py

The names are those of the installed `gguf` package, with which its converter writes; what has no tensors there is a
name without a model. Of an architecture that is not taken the tensors are named that nothing here has; where there are
none, it was not compared with a reference, or has a part without weights, such as ALiBi.
"""

import gguf

from inferd_cpu.families import FAMILIES
from inferd_cpu.supported import is_compiled
from inferd_weights.quants import FORMATS

SHOWN = 4  # tensors of an architecture


def rows() -> list[tuple[str, str]]:
    """Each name, and how it runs here: "compiled", "numpy" or "no"."""
    names = sorted(name for arch, name in gguf.MODEL_ARCH_NAMES.items() if gguf.MODEL_TENSORS.get(arch))

    def state(name: str) -> str:
        family = FAMILIES.get(name)
        return "no" if family is None else "compiled" if is_compiled(family) else "numpy"

    return [(name, state(name)) for name in names]


def lacking() -> dict[str, list[str]]:
    """Of each architecture that is not taken, the tensors that no architecture here has."""
    tensors = {
        name: [gguf.TENSOR_NAMES[tensor].removeprefix("blk.{bid}.") for tensor in gguf.MODEL_TENSORS.get(arch, ())]
        for arch, name in gguf.MODEL_ARCH_NAMES.items()
    }
    known = {tensor for name in FAMILIES for tensor in tensors[name]}
    return {
        name: [tensor for tensor in tensors[name] if tensor not in known] for name, state in rows() if state == "no"
    }


def formats() -> list[str]:
    """Formats of numbers that are named and not taken."""
    return [kind.name for kind in gguf.GGMLQuantizationType if kind.value not in FORMATS]


def write() -> str:
    """The tables."""
    missing = lacking()
    lines = ["| architecture | here | lacks |", "| --- | --- | --- |"]
    for name, state in rows():
        parts = missing.get(name, [])
        more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        why = ", ".join(parts[:SHOWN]) + more
        if state == "no" and not parts:
            why = "no tensor: a comparison, or a part without weights"
        lines.append(f"| {name} | {state} | {why} |")
    return "\n".join([*lines, "", f"Formats of numbers that are not taken: {', '.join(formats())}."])


if __name__ == "__main__":
    print(write())  # noqa: T201 - it is what the script is for
