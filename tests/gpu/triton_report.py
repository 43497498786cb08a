"""Compiles every Triton kernel for GPUs that are not here: registers, spills and shared memory, a JSON line for each.

    python tests/gpu/triton_report.py [sm_80 sm_90 sm_100]

Fails where a kernel spills more than `SPILLED_BYTES` for each thread, or takes more shared memory than such a GPU has.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from inferd_torch import draw_kernels, fused_kernels, paged_decode, paged_prefill
from inferd_torch.packed import kernels as packed
from inferd_torch.packed import rounded_kernels
from inferd_torch.packed.layouts import RUN, WIDTH
from inferd_torch.packed.rounded import LARGEST, LEAST
from inferd_torch.spans import FIELDS, ROWS
from inferd_torch.split import TILE

TARGETS = ("sm_80", "sm_90", "sm_100")
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}
KINDS = {"bf16": 2, "fp32": 4}  # fp16 is compiled as bf16 is
SPILLED_BYTES = {"bf16": 16, "fp32": 16384}  # by thread; float32 is for comparing, and slow with or without them
SHAPES = ((32, 8, 64), (64, 8, 128), (16, 8, 256))  # heads, shared, width
NARROW = 90  # from here on devices multiply numbers of fp8
Case = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]


def attention_cases(kind: str, target: str) -> Iterator[Case]:
    """Both kinds of attention and what combines parts, with all that layers ask for and without."""
    for heads, shared, width in SHAPES:
        padded = max(16, triton.next_power_of_2(width))
        stages = [paged_decode.choose_stages(KINDS[kind], most.STAGES) for most in (paged_decode, paged_prefill)]
        tile, warps = paged_prefill.choose_tile(padded, KINDS[kind], int(target[3:]) // 10)
        for special in (False, True):
            name = f"{heads}x{shared}x{width}{' special' if special else ''}"
            pointers = dict.fromkeys(("queries", "keys", "values"), f"*{kind}")
            numbers = {"window": "i32", "table_stride": "i32", "scaling": "fp32", "softcap": "fp32"}
            widths = {"WIDTH": width, "VALUE_WIDTH": width, "PADDED_WIDTH": padded, "PADDED_VALUE_WIDTH": padded}
            together = heads // shared
            yield (
                f"decode {name}",
                paged_decode._attend_part,
                pointers
                | numbers
                | {"tables": "*i32", "lengths": "*i32", "means": "*fp32", "weights": "*fp32", "parts": "i32"},
                widths
                | {"CAPPED": special, "TOGETHER": together, "BLOCK_TOKENS": 16, "TILE": TILE}
                | {"PADDED_TOGETHER": max(16, triton.next_power_of_2(together))},
                {"num_stages": stages[0]},
            )
            yield (
                f"combine {name}",
                paged_decode._combine,
                {"means": "*fp32", "weights": "*fp32", "sinks": f"*{kind}", "mixed": f"*{kind}", "parts": "i32"},
                {"SUNK": special, "HEADS": heads, "VALUE_WIDTH": width, "PADDED_VALUE_WIDTH": padded}
                | {"MOST_PARTS": paged_decode.MAX_PARTS, "TOGETHER": paged_decode.COMBINED},
                {},
            )
            yield (
                f"prefill {name}",
                paged_prefill._attend_tile,
                pointers | numbers | {"tables": "*i32", "tiles": "*i32", "sinks": f"*{kind}", "mixed": f"*{kind}"},
                widths
                | {"CAPPED": special, "SUNK": special, "FIELDS": FIELDS, "HEADS": heads, "SHARED": shared}
                | {"BLOCK_TOKENS": 16, "ROWS": ROWS, "TILE": tile},
                {"num_warps": warps, "num_stages": stages[1]},
            )


def step_cases(kind: str) -> Iterator[Case]:
    """What lies between the products of a layer."""
    for width in (2048, 8192):
        for adds in (False, True):
            yield (
                f"norm {width}{' adds' if adds else ''}",
                fused_kernels._norm,
                dict.fromkeys(("hidden", "added", "weight", "normed"), f"*{kind}") | {"epsilon": "fp32"},
                {"ADDS": adds, "WIDTH": width, "PADDED": width},
                {"num_warps": 8 if width >= fused_kernels.WIDE else 4},
            )
    for heads, shared, width in SHAPES:
        for norms in (False, True):
            pointers = ("projected", "queries", "keys", "values", "query_norm", "key_norm")
            yield (
                f"rotate {heads}x{shared}x{width}{' norms' if norms else ''}",
                fused_kernels._rotate,
                dict.fromkeys(pointers, f"*{kind}")
                | {"slots": "*i64", "positions": "*i64", "cosines": "*fp32", "sines": "*fp32", "epsilon": "fp32"},
                {"NORMS": norms, "HEADS": heads, "SHARED": shared, "HALF": width // 2}
                | {"PADDED_HALF": triton.next_power_of_2(width // 2)},
                {"num_warps": 1},
            )
    yield (
        "gate 14336",
        fused_kernels._gate,
        {"projected": f"*{kind}", "gated": f"*{kind}"},
        {"WIDTH": 14336, "BLOCK": fused_kernels.GATED},
        {},
    )


def packed_cases(kind: str) -> Iterator[Case]:
    """Products with weights of 4 bits: for few rows in parts, and for more of them."""
    for group, pointed in ((32, True), (128, True), (128, False), (14336, False)):
        for rows in (packed.FEW_ROWS, packed.MORE_ROWS):
            pointers = {"inputs": f"*{kind}", "words": "*i32", "scales": "*fp16", "bias": f"*{kind}"}
            yield (
                f"packed {group}{' zeros' if pointed else ''} by {rows} rows",
                packed._multiply,
                pointers
                | {"zeros": "*u8" if pointed else "*i32", "sums": "*fp32" if rows == packed.FEW_ROWS else f"*{kind}"}
                | {"rows": "i32", "parts": "i32"},
                {"INPUTS": 14336, "OUTPUTS": 4096, "GROUP": group, "POINTED": pointed}
                | {"BIASED": rows != packed.FEW_ROWS, "RUN": RUN, "WIDTH": WIDTH, "ROWS": rows}
                | {"COLUMNS": packed.OUTPUTS},
                {"num_stages": packed.STAGES[rows]},
            )
    yield (
        "sum 4096",
        packed._sum,
        {"sums": "*fp32", "bias": f"*{kind}", "given": f"*{kind}", "rows": "i32", "parts": "i32"},
        {"OUTPUTS": 4096, "BIASED": True, "BLOCK": packed.SUMMED},
        {},
    )


def rounded_cases(kind: str) -> Iterator[Case]:
    """Products with weights of fp8 that are widened, and what rounds rows where a device multiplies such numbers."""
    for rows in (packed.FEW_ROWS, packed.MORE_ROWS):
        yield (
            f"widen by {rows} rows",
            rounded_kernels._widen,
            {
                "inputs": f"*{kind}",
                "numbers": "*u8",
                "scales": "*fp32",
                "bias": f"*{kind}",
                "rows": "i32",
                "parts": "i32",
            }
            | {"sums": "*fp32" if rows == packed.FEW_ROWS else f"*{kind}"},
            {"INPUTS": 14336, "OUTPUTS": 4096, "BIASED": rows != packed.FEW_ROWS, "ROWS": rows}
            | {"TILE": rounded_kernels.TILE, "COLUMNS": packed.OUTPUTS, "LIFT": rounded_kernels.LIFT},
            {"num_stages": rounded_kernels.STAGES[rows]},
        )
    yield (
        "round 14336",
        rounded_kernels._round,
        {"rows": f"*{kind}", "numbers": "*fp8e4nv", "scales": "*fp32"},
        {"WIDTH": 14336, "PADDED": 16384, "LARGEST": LARGEST, "LEAST": LEAST},
        {"num_warps": 16},
    )


def draw_cases(kind: str) -> Iterator[Case]:
    """What chooses tokens."""
    for size in (32000, 128256):
        yield (
            f"draw {size}",
            draw_kernels._draw,
            {"logits": f"*{kind}", "table": "*fp64", "tokens": "*i64", "stride": "i32"},
            {"VOCABULARY": size, "BLOCK": draw_kernels.BLOCK},
            {"num_warps": draw_kernels.WARPS},
        )


def compile_one(case: Case, kind: str, target: str) -> dict[str, Any]:
    """One kernel for one kind of GPU; pointers are to whole 16 bytes but where no kernel may count on that."""
    name, kernel, arguments, constants, options = case
    whole = [
        (number,)
        for number, parameter in enumerate(kernel.params)
        if arguments.get(parameter.name, "").startswith("*") and not parameter.do_not_specialize_on_alignment
    ]
    signature = {each.name: arguments.get(each.name, "constexpr") for each in kernel.params}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=constants,
        attrs={place: [["tt.divisibility", 16]] for place in whole},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", int(target[3:]), 32), options=options)
    return {"kernel": name, "numbers": kind, "target": target, **count(compiled)}


def count(compiled: Any) -> dict[str, int]:
    """What ptxas and cuobjdump say of it, for each thread, and the shared memory of a program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(compiled.asm["ptx"])
        target = re.search(r"\.target (\w+)", compiled.asm["ptx"])
        ptxas = find_assembler(int(re.findall(r"\d+", target[1])[0]) if target else 90)
        done = subprocess.run(
            [ptxas.path, "-v", f"-arch={target[1] if target else ''}", path, "-o", Path(folder, "kernel.cubin")],
            capture_output=True,
            text=True,
            check=False,
        )
    told = done.stderr
    if done.returncode:
        raise RuntimeError(told)
    registers = re.search(r"Used (\d+) registers", told)
    spilled = re.search(r"(\d+) bytes spill stores", told)
    return {
        "registers": int(registers[1]) if registers else -1,
        "spilled_bytes": int(spilled[1]) if spilled else -1,
        "shared_bytes": int(compiled.metadata.shared),
        "warps": int(compiled.metadata.num_warps),
    }


def find_assembler(target: int) -> Any:
    """The one that Triton takes for a kind of GPU: which that is depends on its version."""
    from triton.backends.nvidia import compiler

    return compiler.get_ptxas(target)


def main(targets: list[str]) -> int:
    """A line for each kernel; how many do not do."""
    bad = 0
    for target in targets or TARGETS:
        for kind in KINDS:
            others = (step_cases, draw_cases, packed_cases, rounded_cases)
            for case in (*attention_cases(kind, target), *(case for make in others for case in make(kind))):
                if case[0].startswith("round") and int(target[3:]) < NARROW:
                    continue
                line = compile_one(case, kind, target)
                line["fits"] = (
                    line["spilled_bytes"] <= SPILLED_BYTES[kind] and line["shared_bytes"] <= SHARED_BYTES[target]
                )
                bad += not line["fits"]
                print(json.dumps(line), flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
