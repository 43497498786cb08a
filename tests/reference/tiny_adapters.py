"""Adapters of tiny networks, as the `peft` package and the usual converter to GGUF save them."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

Floats = np.ndarray[Any, Any]
Matrices = dict[str, tuple[Floats, Floats]]
"""Two thin matrices by the name of the weight in the network."""
RANK, ALPHA = 3, 6.0
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Projections of a layer of the Llama family, and their names in GGUF."""


def draw(network: Any, seed: int, *, parts: Collection[str] = tuple(PARTS), spread: float = 0.2) -> Matrices:
    """Matrices for these projections of all layers."""
    rng, found = np.random.default_rng(seed), {}
    for name, weight in network.state_dict().items():
        if any(f".{part}.weight" in name for part in parts):
            rows, columns = weight.shape
            down, up = rng.normal(size=(RANK, columns)) * spread, rng.normal(size=(rows, RANK)) * spread
            found[name] = (down.astype(np.float32), up.astype(np.float32))
    return found


def write_peft(matrices: Matrices, folder: Path, **changes: Any) -> Path:
    """The folder that the `peft` package makes."""
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": [*PARTS]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    tensors = {}
    for name, (down, up) in matrices.items():
        stem = name.removesuffix(".weight")
        tensors[f"base_model.model.{stem}.lora_A.weight"] = down
        tensors[f"base_model.model.{stem}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_gguf_adapter(network: Any, matrices: Matrices, path: Path, *, architecture: str = "llama") -> Path:
    """The file that the converter makes: rows of queries and keys are neighbours by pairs."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, (down, up) in matrices.items():
        rows, (layer, part) = up, (name.split(".")[2], ".".join(name.split(".")[3:5]))
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            config = network.config
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            rows = up.reshape(heads, 2, len(up) // heads // 2, -1).swapaxes(1, 2).reshape(up.shape)
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.lora_a", down)
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged_logits(network: Any, matrices: Matrices, ids: list[int]) -> Floats:
    """The logits of the network with the sums as weights, in fp32."""
    import torch  # noqa: PLC0415 - whoever has a network has it

    with torch.inference_mode():
        for sign in (1.0, -1.0):
            for name, (down, up) in matrices.items():
                network.get_parameter(name).add_(torch.from_numpy(up @ down) * (sign * ALPHA / RANK))
            if sign > 0:
                logits: Floats = network(input_ids=torch.tensor([ids])).logits[0].numpy().copy()
    return logits
