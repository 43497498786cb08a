"""`python tests/bench/text_data.py --bytes 100000000`: text is added, cleaned, freed of repeats and tokenised.

One JSON line for each stage: seconds, megabytes of text in a second, and how much memory all processes took together
at most, shared pages counted once (the proportional set size, PSS): of the client, which is `inferd data`, of the
kernel, and of its workers with all that they start. `--beside pandas` does the same work with pandas in one process, by
the same libraries, and is measured likewise; `--memory-mib 512` has the script fail where all processes together took
more at any time.

The text is real: paragraphs of the documents and sources of installed packages, taken again and again with seeded
changes, so that no two rounds are alike; one in twenty stands twice, and one in fifty was decoded wrongly.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STAGES = ("add", "clean", "dedupe", "tokenise")
LOOK_S = 0.2
SOURCES = ("*.py", "*.rst", "*.md", "*.txt", "*.pyi")
CORPUS_BYTES = 48 << 20  # of paragraphs that are taken again and again
PARAGRAPH = re.compile(rb"\n\s*\n")
LEAST, MOST = 200, 8000  # bytes of a paragraph
TWICE, DAMAGED, CHANGED = 0.05, 0.02, 0.02  # shares of paragraphs, and of words of one
QUOTED = "\N{LEFT DOUBLE QUOTATION MARK}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\N{RIGHT SINGLE QUOTATION MARK}"
MIB = 1 << 20


def paragraphs() -> list[str]:
    """Paragraphs of the files of installed packages and of the standard library, in an order that a host keeps."""
    found, size = list[str](), 0
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for path in sorted(each for pattern in SOURCES for each in Path(root).rglob(pattern)):
            for part in PARAGRAPH.split(path.read_bytes()):
                if LEAST <= len(part) <= MOST:
                    with suppress(UnicodeDecodeError):
                        found.append(part.decode())
                        size += len(part)
            if size >= CORPUS_BYTES:
                return found
    return found


def write_text(path: Path, size_bytes: int, seed: int) -> int:
    """JSON Lines with a field `text`, of so many bytes of text, about; how many lines."""
    dice, corpus, size, lines, before = random.Random(seed), paragraphs(), 0, 0, "once"
    known = sorted({word for part in corpus[:2000] for word in part.split() if word.isalpha()})
    with path.open("w", encoding="utf-8") as file:
        while size < size_bytes:
            for part in corpus:
                if dice.random() < TWICE:
                    text = before
                else:
                    words = part.split(" ")
                    for _ in range(max(1, int(len(words) * CHANGED))):
                        words[dice.randrange(len(words))] = dice.choice(known)
                    text = before = " ".join(words)
                if dice.random() < DAMAGED:
                    text = f"{QUOTED[0]}{text}{QUOTED[1]}".encode().decode("cp1252", "replace")
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text.encode())
                lines += 1
                if size >= size_bytes:
                    break
    return lines


@dataclass(slots=True)
class Watch:
    """How much memory processes take together, looked at again and again by a thread of its own.

    Attributes:
        roots: By what they are called, processes whose descendants count with them.
        peak: In the moment in which it was most: bytes by that name.
        most: In any moment, by itself.
    """

    roots: dict[str, int]
    peak: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> dict[str, int]:
        """Now; a kernel's own process counts apart from those that it started."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with suppress(OSError, IndexError, ValueError):
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(path.name))
        found: dict[str, int] = {}
        for name, root in self.roots.items():
            found[name] = pss(root)
            rest, below = list(children.get(root, ())), 0
            while rest:
                pid = rest.pop()
                below += pss(pid)
                rest += children.get(pid, ())
            if name == "kernel":
                found["workers"] = below
            else:
                found[name] += below
        return found

    def run(self) -> None:
        """Look until it is over."""
        while not self._stop.wait(LOOK_S):
            now = self.look()
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now
            for name, size in now.items():
                self.most[name] = max(size, self.most.get(name, 0))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Beside the block."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def pss(pid: int) -> int:
    """The proportional set size of a process in bytes; 0 where it has gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def command(stage: str, address: str, file: Path, in_flight: int) -> list[str]:
    """The command of a stage."""
    words = {
        "add": ["add", "text", str(file)],
        "clean": ["map", "text", "clean", "cleaned", "--result", "text", "--input", '{"spaces": "collapse"}'],
        "dedupe": ["dedupe", "cleaned", "once"],
        "tokenise": ["map", "once", "tokenise", "tokens", "--parameter", "text", "--input", '{"tokenizer": "words"}'],
    }[stage]
    more = ["--in-flight", str(in_flight)] if words[0] == "map" else []
    return [sys.executable, "-m", "inferd", "data", *words, *more, "--address", address, "-o", "json"]


def beside_pandas(file: Path, tokenizer: Path) -> None:
    """The same by pandas in one process, all of it in memory: a line for each stage."""
    import pandas as pd  # noqa: PLC0415 - as above
    from tokenizers import Tokenizer  # noqa: PLC0415

    from inferd_functions.repair import clean  # noqa: PLC0415

    began = time.monotonic()

    def told(name: str) -> None:
        nonlocal began
        print(json.dumps({"stage": name, "s": round(time.monotonic() - began, 2), "rows": len(table)}), flush=True)
        began = time.monotonic()

    table = pd.read_json(file, lines=True)
    told("add")
    table["text"] = table["text"].map(lambda text: clean(text, spaces="collapse"))
    told("clean")
    table = table[~table["text"].map(lambda text: " ".join(text.casefold().split())).duplicated()]
    told("dedupe")
    made = Tokenizer.from_file(str(tokenizer))
    table = table.assign(tokens=table["text"].map(lambda text: made.encode(text, add_special_tokens=False).ids))
    told("tokenise")


def write_tokenizer(path: Path) -> None:
    """A tokenizer of pairs of bytes, as models have it, trained on the beginning of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - as above

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(paragraphs()[:5000], trainer)
    made.save(str(path))


def tell(**facts: Any) -> None:
    """One line."""
    print(json.dumps(facts), flush=True)


def measured(words: list[str], watch: Watch, name: str) -> tuple[str, float]:
    """A process run to its end beside a watch: what it told, and for how long it ran."""
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        watch.roots[name] = process.pid
        with watch.looking():
            told, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return told, time.monotonic() - began


def mib(sizes: dict[str, int]) -> dict[str, int]:
    """Bytes as MiB."""
    return {name: round(size / MIB) for name, size in sizes.items()}


def ours(folder: Path, file: Path, tokenizer: Path, *, size: int, in_flight: int, calls: int, retained: int) -> int:
    """All stages by a kernel; the most that all processes took at once, in bytes."""
    from inferd.testing.kernel import kernel_process  # noqa: PLC0415 - no part of what a client imports

    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/store",
        "INFERD_BACKENDS": "[]",
        "INFERD_PLUGIN_MODULES": "[]",
        "INFERD_FUNCTIONS__PACKAGES": "[]",
        "INFERD_FUNCTIONS__MODULES": '["inferd_functions.plugin"]',
        "INFERD_FUNCTIONS__CALLS": str(calls),
        "INFERD_LIMITS__RETAINED_BYTES": str(retained),
        "INFERD_FUNCTIONS__FILES": json.dumps({"words": str(tokenizer)}),
    }
    most, whole_s = 0, 0.0
    with kernel_process(folder, environment=environment) as kernel:
        idle = Watch({"kernel": kernel.pid}).look()
        tell(name="text_data.idle", mib=mib(idle))
        for name in STAGES:
            watch = Watch({"kernel": kernel.pid})
            told, seconds = measured(command(name, kernel.address, file, in_flight), watch, "client")
            made = {each: json.loads(told)[each] for each in ("rows", "size_bytes", "digest")}
            peak = sum(watch.peak.values())
            most, whole_s = max(most, peak), whole_s + seconds
            tell(
                name=f"text_data.{name}",
                s=round(seconds, 2),
                mb_s=round(size / 1e6 / seconds, 3),
                peak_mib=round(peak / MIB),
                at_peak_mib=mib(watch.peak),
                most_mib=mib(watch.most),
                **made,
            )
    tell(
        name="text_data.whole",
        bytes=size,
        s=round(whole_s, 2),
        mb_s=round(size / 1e6 / whole_s, 3),
        peak_mib=round(most / MIB),
        above_idle_mib=round((most - sum(idle.values())) / MIB),
        load=[round(each, 1) for each in os.getloadavg()],
    )
    return most


def main() -> None:
    """Run what the command line asks for."""
    if sys.argv[1:2] == ["--pandas"]:
        beside_pandas(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    options = argparse.ArgumentParser(description="text that is cleaned, freed of what stands twice and tokenised")
    options.add_argument("--bytes", type=int, default=100_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--in-flight", type=int, default=2)
    options.add_argument("--calls", type=int, default=2)
    options.add_argument("--retained-mib", type=int, default=16, help="limits.retained_bytes of the kernel")
    options.add_argument("--memory-mib", type=int, default=0, help="fail where all processes took more; 0: never")
    options.add_argument("--beside", choices=("pandas",), help="measure this, too")
    asked = options.parse_args()
    if asked.beside and find_spec(asked.beside) is None:
        options.error(f"{asked.beside} is not installed: pip install {asked.beside}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, tokenizer = folder / "text.jsonl", folder / "tokenizer.json"
        lines = write_text(file, asked.bytes, asked.seed)
        write_tokenizer(tokenizer)
        tell(name="text_data.text", lines=lines, bytes=asked.bytes, file_bytes=file.stat().st_size)
        chosen = {"size": asked.bytes, "in_flight": asked.in_flight, "calls": asked.calls}
        chosen["retained"] = asked.retained_mib * MIB
        most = ours(folder / "k", file, tokenizer, **chosen)
        if asked.beside:
            watch = Watch({})
            told, seconds = measured([sys.executable, __file__, "--pandas", str(file), str(tokenizer)], watch, "pandas")
            for each in map(json.loads, told.splitlines()):
                tell(**{"name": f"text_data.pandas.{each.pop('stage')}", **each})
            speed = round(asked.bytes / 1e6 / seconds, 3)
            tell(name="text_data.pandas", s=round(seconds, 2), mb_s=speed, peak_mib=mib(watch.peak)["pandas"])
    if asked.memory_mib and most > asked.memory_mib * MIB:
        sys.exit(f"all processes took {most / MIB:.0f} MiB together, and {asked.memory_mib} was the most")


if __name__ == "__main__":
    main()
