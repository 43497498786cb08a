"""Make `smollm2_greedy.json`: what Hugging Face transformers says, in fp32, for the prompts of `smollm2_prompts.json`.

    python -m venv hf && hf/bin/pip install torch transformers gguf accelerate
    hf/bin/python tests/reference/make_reference.py smollm2 SmolLM2-135M-Instruct.Q4_1.gguf
    hf/bin/python tests/reference/make_reference.py gemma3 gemma-3-270m-q4_k_m.gguf

Of gemma3, which has no template, all texts are tokenised and some are continued. The file that is made says, under
"about", how the ids came to be; for each prompt it holds

    text      what was tokenised: the prompt, or the chat rendered by the model's template
    messages  chats only: what the template was given (with add_generation_prompt)
    prompt    ids of `text`: control tokens in it are recognised, nothing is put in front or behind (the model has
              add_bos_token = false, and a single sequence needs no padding)
    output    64 ids (of gemma3 16), each the first largest logit; generation goes on past end-of-text tokens
    margins   best logit less the second best, per output id: a small one marks a near-tie
    decoded   the tokenizer's decode of all of `output` at once, with control tokens left out
    loss      gemma3 only: mean of -log p in nats over the tokens of the prompt and the output behind the first one

transformers 5 rebuilds the tokenizer of a GGUF without its splitting rule. The model's own rule ("smollm" in
`tokenizer.ggml.pre`: every digit alone, then the GPT-2 pattern) is therefore set here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

HERE = Path(__file__).parent
OUTPUT_TOKENS = {"smollm2": 64, "gemma3": 16}
CONTINUED = ("capital", "numbers", "chinese", "code_python", "code_json")  # of gemma3


def load(name: str, path: Path) -> tuple[Any, Any]:
    """The tokenizer and the fp32 model of a GGUF file."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if name == "smollm2":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=GgufConfig(dequantize=True),
    )
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    return tokenizer, model.eval()


@torch.inference_mode()
def generate(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy output ids of one sequence run alone, and the margin of each."""
    output: list[int] = []
    margins: list[float] = []
    step = model(input_ids=torch.tensor([prompt]), use_cache=True)
    while True:
        logits = step.logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        output.append(int(logits.argmax()))
        margins.append(float(f"{best - second:.4g}"))
        if len(output) == count:
            return output, margins
        step = model(input_ids=torch.tensor([output[-1:]]), past_key_values=step.past_key_values, use_cache=True)


@torch.inference_mode()
def measure_loss(model: Any, ids: list[int]) -> float:
    """Mean loss in nats of a sequence that is read at once."""
    return float(f"{model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item():.7g}")


def main(name: str, path: Path) -> None:
    """Run every prompt and write the file."""
    tokenizer, model = load(name, path)
    prompts = json.loads((HERE / "smollm2_prompts.json").read_text(encoding="utf-8"))
    cases: dict[str, dict[str, Any]] = {name: {"text": text} for name, text in prompts["plain"].items()}
    for case, messages in prompts["chat"].items() if name == "smollm2" else ():
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        cases[case] = {"text": text, "messages": messages}
    backend = tokenizer.backend_tokenizer
    for key, case in cases.items():
        case["prompt"] = backend.encode(case["text"], add_special_tokens=True).ids
        if name == "gemma3" and key not in CONTINUED:
            continue
        case["output"], case["margins"] = generate(model, case["prompt"], OUTPUT_TOKENS[name])
        case["decoded"] = backend.decode(case["output"], skip_special_tokens=True)
        if name == "gemma3":
            case["loss"] = measure_loss(model, case["prompt"] + case["output"])
    about = (
        f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, eager attention, greedy, "
        f"past end-of-text, each sequence alone; weights of {path.name}; made by make_reference.py"
    )
    lines = [json.dumps(about, ensure_ascii=False)]
    rows = [f"{json.dumps(key)}: {json.dumps(case, ensure_ascii=False)}" for key, case in cases.items()]
    text = '{"about": ' + lines[0] + ',\n"cases": {\n' + ",\n".join(rows) + "\n}}\n"
    (HERE / f"{name}_greedy.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
