"""Runs programs of others against a gateway before SmolLM2, and writes what they did to docs/compat-openai.md.

`make compat-openai` runs it; they are installed into an environment of their own outside the tree.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inferd import __version__
from inferd.plugin import TokenKind
from inferd.testing.kernel import kernel_process
from inferd_client import Client
from inferd_weights.gguf import GgufFile

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/compat-openai.md"
LIBRARIES = {
    "openai_chat": "openai",
    "openai_async": "openai",
    "openai_responses": "openai",
    "openai_vectors": "openai",
    "openai_stores": "openai",
    "openai_tools": "openai",
    "ollama": "ollama",
    "ollama_tools": "ollama",
    "langchain": "langchain-openai",
    "langchain_tools": "langchain-openai",
    "llama_index": "llama-index-llms-openai-like",
    "litellm": "litellm",
    "llm": "llm",
    "aiperf": "aiperf",
}
APART = frozenset({"aiperf"})
"""Libraries that want versions of others which the rest does not take: each has an environment of its own."""
NODE = {"chat": "Whole and streamed, JSON by a schema, and errors.", "tools": "Calls of tools, whole and streamed.",
        "responses": "Made, streamed and gone on with."}  # fmt: skip
"""Probes of the library for Node, of `openai_probes.cjs`: what each does."""
FORMATS = {"smollm2": "hermes"}  # its chat template tells no format of calls; what is forced is written in this one
TIMEOUT_S = 300
SHOWN = 160  # characters of what failed


@contextmanager
def served(folder: Path, model: Path) -> Iterator[tuple[str, str]]:
    """The URL and the key of a gateway before a kernel that has the model."""
    kept = {"INFERD_BACKENDS": "cpu", "INFERD_STORE__URL": f"sqlite:{folder / 'kept.sqlite'}"}
    with kernel_process(folder, environment=kept) as kernel, Client(kernel.address) as client:
        client.create_model("smollm2", source=str(model))
        client.load_model("smollm2")
        command = [sys.executable, "-m", "inferd", "http", "--listen", "127.0.0.1:0", "--address", kernel.address]
        process = subprocess.Popen(
            [*command, "-o", "json"],
            env={
                **os.environ,
                "INFERD_STATE_DIR": str(folder / "state"),
                "INFERD_HTTP__TOOL_FORMATS": json.dumps(FORMATS),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield told["url"], Path(told["key_file"]).read_text(encoding="utf-8").strip()
        finally:
            process.terminate()
            process.wait(30)


def probes() -> dict[str, Any]:
    """The probes, by name."""
    spec = spec_from_file_location("openai_probes", HERE / "openai_probes.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.PROBES
    return found


def environment(folder: Path, libraries: Collection[str]) -> Path:
    """The interpreter of an environment in a folder, made with the libraries where it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *sorted(libraries)], check=True)
    return python


def node_environment(folder: Path) -> Path:
    """The packages of a folder, with OpenAI's for Node installed where it is not there."""
    modules = folder / "node_modules"
    if not (modules / "openai").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), "openai"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return modules


def write_tokenizer(model: Path, folder: Path) -> Path:
    """The tokens of a GGUF file with byte-level BPE, as a folder that transformers reads without a network."""
    metadata = GgufFile(model).metadata
    tokens = metadata.texts("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in metadata.texts("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    kinds = metadata.content("tokenizer.ggml.token_type")
    made.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenKind.CONTROL])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    end = tokens[metadata.integer("tokenizer.ggml.eos_token_id")]
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def pulled() -> Path:
    """The GGUF file of SmolLM2, in the folder where the tests have it."""
    cache = platformdirs.user_cache_path("inferd-tests")
    command = [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"]
    done = subprocess.run(
        command, env={**os.environ, "INFERD_DATA_DIR": str(cache)}, check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(json.loads(done.stdout)["path"])


def version_of(python: Path, library: str) -> str:
    """The version of a library in an environment; "" where it is not there."""
    code = f"from importlib.metadata import version; print(version({library!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """What became of a probe: "works", or how it failed."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"not ended after {TIMEOUT_S} s"
    if done.returncode == 0:
        return "works"
    return (done.stderr.strip().splitlines() or ["no word"])[-1][:SHOWN].replace("|", "\\|")


def _rows() -> dict[str, str]:
    """The rows of the page as it is, by what was done."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split(" | ")[1]: line for line in lines if line.startswith("| `")}


def main() -> None:
    """Run all that are installed, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="the environment of the libraries, made if need be")
    parser.add_argument("--only", action="append", help="these probes, other rows stay; default: all")
    asked = parser.parse_args()
    rows, failed = _rows() if asked.only else {}, 0
    with ExitStack() as stack:
        pythons = dict.fromkeys(LIBRARIES.values(), environment(asked.venv, {*LIBRARIES.values()} - APART))
        wanted = {LIBRARIES[name] for name in asked.only or LIBRARIES if name in LIBRARIES}
        pythons |= {each: environment(asked.venv / each, {each}) for each in APART & wanted}
        folder, model = Path(stack.enter_context(TemporaryDirectory(prefix="compat-"))), pulled()
        tokenizer = {"TOKENIZER": str(write_tokenizer(model, folder / "tokenizer"))}
        url, key = stack.enter_context(served(folder, model))
        for name, probe in probes().items():
            if asked.only and name not in asked.only:
                continue
            library = LIBRARIES[name]
            python = pythons[library]
            version = version_of(python, library)
            begun = time.monotonic()
            command = [python, HERE / "openai_probes.py", name, url, key]
            outcome = run(command, tokenizer) if version else "not installed"
            failed += outcome != "works"
            what = (probe.__doc__ or "").strip()
            rows[what] = f"| `{library}` {version} | {what} | {outcome} |"
            print(f"{name}: {outcome} ({time.monotonic() - begun:.1f} s)", flush=True)
        if shutil.which("npm"):
            modules = node_environment(asked.venv / "node")
            version = json.loads((modules / "openai/package.json").read_text())["version"]
            for name, what in NODE.items():
                if asked.only and f"node_{name}" not in asked.only:
                    continue
                command = ["node", HERE / "openai_probes.cjs", name, url, key]
                outcome = run(command, {"NODE_PATH": str(modules)})
                failed += outcome != "works"
                rows[what] = f"| `openai` {version} for Node | {what} | {outcome} |"
                print(f"node_{name}: {outcome}", flush=True)
    page = [
        "# Programs that speak OpenAI's and Ollama's HTTP",
        "",
        f"What libraries of others did, unchanged, with `inferd http` {__version__} before SmolLM2 on the processor.",
        "Written by `make compat-openai` ([`compat_openai.py`](../tests/system/compat_openai.py));",
        "what each does is in [`openai_probes.py`](../tests/system/openai_probes.py).",
        "",
        "| library | what it did | outcome |",
        "|---|---|---|",
        *(
            rows[what]
            for what in [*((each.__doc__ or "").strip() for each in probes().values()), *NODE.values()]
            if what in rows
        ),
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
