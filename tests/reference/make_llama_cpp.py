"""Make `gemma3_llama_cpp.json`: how llama.cpp continues ten texts, greedily, with a published Gemma 3 270M in Q4_K_M.

    python -m venv peer && peer/bin/pip install xllamacpp
    peer/bin/python tests/reference/make_llama_cpp.py gemma-3-270m-q4_k_m.gguf

For each text the file holds `prompt_tokens`, how many it makes of it, `output`, 32 ids, and `margins`: by how many nats
the first of each is likelier than the second. It computes with 8 bits as well, so near-ties fall either way.
"""

import json
import sys
from pathlib import Path
from typing import Any

import xllamacpp

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small village where",
    "def fibonacci(n):\n    ",
    "Die Hauptstadt von Deutschland ist",
    "The three laws of thermodynamics are",
    "Water boils at a temperature of",
    "1, 2, 3, 4, 5,",
    "Dear Sir or Madam,\n\nI am writing to",
    "El perro corre por",
    "In 1969, the first human",
)
TOKENS = 32


def ask(server: Any, text: str) -> dict[str, Any]:
    """How the server continues a text."""
    wanted = {"prompt": text, "max_tokens": TOKENS, "temperature": 0, "logprobs": 2, "cache_prompt": False}
    answer = server.handle_completions(wanted)
    told = answer["choices"][0]["logprobs"]["content"]
    margins = []
    for each in told:
        first, second = sorted((top["logprob"] for top in each["top_logprobs"]), reverse=True)[:2]
        margins.append(round(first - second, 4))
    output = [each["id"] for each in told]
    return {"text": text, "prompt_tokens": answer["usage"]["prompt_tokens"], "output": output, "margins": margins}


def main() -> None:
    """Write the file beside this one."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 512, 1
    server = xllamacpp.Server(params)
    cases = [ask(server, text) for text in TEXTS]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    about = json.dumps(f"xllamacpp {xllamacpp.__version__}, greedy; made by make_llama_cpp.py")
    path = Path(__file__).with_name("gemma3_llama_cpp.json")
    path.write_text(f'{{"about": {about}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
