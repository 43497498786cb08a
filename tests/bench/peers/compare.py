"""`make peers`: this tree beside well-known systems, one JSON line per figure, and the table in docs/performance.md.

In each round all of them run the workload one after the other, each in a process of its own: what else the machine does
meets all of them, and only ratios of one sitting count. What cannot be installed or does not run is named with the
reason. ISA=avx2 holds all to a smaller instruction set, as far as they can be.
"""

import argparse
import datetime as dt
import json
import os
import sys
import time
from pathlib import Path

import peer_table
from catalogue import ENTRIES, ONEDNN, OUT_OF_REACH, Entry
from environments import HERE, Home, Unavailable, call
from large import SHAPES
from peer_table import Sitting
from real_model import smollm2
from roofline import Machine, Roofline
from workload import CASES, LONG, Case

CASE_S = 900  # for the cases of one entry in one round
MARCH = {"plain": "x86-64", "avx2": "x86-64-v3", "avx512": "x86-64-v4 -mavx512vnni"}  # for the limits, when lowered


def main() -> None:
    """Measure, tell, write."""
    options = parse()
    from inferd_cpu.native import Native  # noqa: PLC0415 - an import that loads the library

    if options.isa in MARCH:
        os.environ["LIMITS_CFLAGS"] = f"-march={MARCH[options.isa]}"
    wanted, usual = options.only.split(","), [case.name for case in CASES]
    sitting = Sitting(
        processor=describe_processor(),
        isa=options.isa or Native().isa,
        shape=options.shape,
        date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        cases=[case for case in (*CASES, *LONG) if case.name in (options.cases.split(",") if options.cases else usual)],
        entries=[entry for entry in ENTRIES if any(entry.name.startswith(name) for name in wanted)],
    )
    weights = smollm2()
    home = Home(options.home, weights, options.shape)
    weights = home.model("")
    for entry in sitting.entries:
        tell(f"preparing {entry.name}")
        try:
            home.python(entry.environment)
            home.model(entry.form)
        except Unavailable as error:
            miss(sitting, entry, str(error))
    if not options.prepare:
        take_limits(sitting, weights)
        until = time.monotonic() + options.seconds
        for number in range(options.rounds):
            for entry in sitting.entries:
                left_s = min(CASE_S, until - time.monotonic())
                if left_s > 0:
                    take(sitting, home, entry, number, lowered=bool(options.isa), timeout_s=left_s)
        if not options.only:
            sitting.missing |= OUT_OF_REACH
        if options.write:
            peer_table.write(options.write, sitting)
        tell(peer_table.render(sitting))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=86400, help="end after so many, with the rounds done by then")
    parser.add_argument("--only", default="", help="beginnings of names of entries, with commas between")
    parser.add_argument("--cases", default="", help="names of cases, with commas between")
    parser.add_argument("--shape", default="", choices=("", *SHAPES), help="random weights of a larger model")
    parser.add_argument("--isa", default="", choices=("", *ONEDNN), help="hold all to this instruction set")
    home = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache" / "inferd-peers"))
    parser.add_argument("--home", type=Path, default=home, help="folder of environments and models")
    parser.add_argument("--write", type=Path, help="the document whose table is replaced")
    parser.add_argument("--prepare", action="store_true", help="install and make what is needed, and measure nothing")
    return parser.parse_args()


def tell(text: str) -> None:
    """To whoever waits; figures alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def miss(sitting: Sitting, entry: Entry, why: str) -> None:
    """An entry that is not to be had."""
    sitting.missing[entry.name] = why
    print(json.dumps({"peer": entry.name, "isa": sitting.isa, "skipped": why}), flush=True)


def take_limits(sitting: Sitting, weights: Path) -> None:
    """What the machine allows for each case, with weights as stored and of eight bits."""
    machine = Machine()
    numbers = (
        "BF16 activations, KV i8"
        if sitting.isa == "amx"
        else "KV i8"
        if sitting.isa in ("avx512", "avx2")
        else "KV bf16"
    )
    for bits in {entry.bits for entry in sitting.entries if entry.ours}:
        roofline = Roofline(weights, machine=machine, bits=bits)
        for case in sitting.cases:
            limit = roofline.limit(case, numbers)
            if limit:
                sitting.limits[bits, case.name] = limit
    sitting.limits_told = machine.told
    told = {"limits": {f"{bits or 4}-bit {case}": round(limit, 1) for (bits, case), limit in sitting.limits.items()}}
    print(json.dumps(told | {"isa": sitting.isa, "processor": sitting.processor}), flush=True)


def take(sitting: Sitting, home: Home, entry: Entry, number: int, *, lowered: bool, timeout_s: float) -> None:
    """One round of an entry."""
    cases = {case.name: case for case in sitting.cases if case.sequences <= entry.most_sequences}
    if entry.name in sitting.missing or not cases:
        return
    tell(f"round {number + 1}: {entry.name}")
    command = [str(home.python(entry.environment)), str(HERE / entry.script), str(home.model(entry.form)), *cases]
    environment = {"PYTHONPATH": f"{HERE}:{HERE.parent}"}
    if entry.ours:
        command += ["--", *entry.arguments, *([f"isa={sitting.isa}"] if lowered else [])]
    elif lowered and entry.obeys_onednn:
        environment["ONEDNN_MAX_CPU_ISA"] = ONEDNN[sitting.isa]
    try:
        said = call(command, home.folder, timeout_s, environment)
    except Unavailable as error:
        if number == 0:
            miss(sitting, entry, str(error))
        return
    for line in (json.loads(line) for line in said.splitlines() if line.startswith('{"case"')):
        rate = round(count(cases[line["case"]], line["tokens"]) / line["seconds"], 1)
        sitting.rates.setdefault((entry.name, line["case"]), []).append(rate)
        about = {"peer": entry.name, "round": number, "isa": sitting.isa, "date": sitting.date}
        print(json.dumps(about | line | {"tok_s": rate}), flush=True)


def count(case: Case, produced: int) -> int:
    """The tokens that are counted: those of the prompt where there is next to no output."""
    return case.figure[0] if case.output_tokens == 1 else produced


def describe_processor() -> str:
    """Its name, its cores, and of its instruction sets those that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = dict(line.partition(":")[::2] for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in told.items()}
    found = set(fields.get("flags", "").split())
    sets = [name for name in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if name in found]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', 'unknown')} ({family}; {', '.join(sets)}), {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
