"""Prints which architectures the converter of llama.cpp names and the `cpu` backend does not take, as a table.

    .venv/bin/python tests/reference/compare_with_llama_cpp.py

The names are those of the installed `gguf` package; what has no tensors there is a name without a model.
"""

import gguf

from inferd_cpu.families import FAMILIES
from inferd_cpu.supported import is_compiled


def rows() -> list[tuple[str, str]]:
    """Each name, and how it runs here: "compiled", "numpy" or "no"."""
    names = sorted(name for arch, name in gguf.MODEL_ARCH_NAMES.items() if gguf.MODEL_TENSORS.get(arch))

    def state(name: str) -> str:
        family = FAMILIES.get(name)
        return "no" if family is None else "compiled" if is_compiled(family) else "numpy"

    return [(name, state(name)) for name in names]


if __name__ == "__main__":
    print("| llama.cpp | here |\n| --- | --- |")  # noqa: T201 - it is what the script is for
    for name, state in rows():
        print(f"| {name} | {state} |")  # noqa: T201
