"""Sound small projectors of each kind, for models of `gguf_seeds`, whose width is 64, and the tokens they need."""

from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

WIDTH, FEED, OUT, PATCH = 32, 40, 64, 4


class Kind(NamedTuple):
    """A kind of projector.

    Attributes:
        architecture: Of the model that it is for.
        tokens: That its vocabulary has.
        sizes: Whole numbers beside those that all files say.
        uses: The activation.
    """

    architecture: str
    tokens: tuple[str, ...]
    sizes: dict[str, int]
    uses: str = "gelu"


KINDS = {
    # Tiles of 8 x 8 pixels, of which a picture has at most 5.
    "idefics3": Kind(
        "llama",
        ("<image>", "<fake_token_around_image>", "<global-img>", "<row_2_col_2>"),
        {"image_size": 8, "projector.scale_factor": 2, "preproc_image_size": 16},
    ),
    "gemma3": Kind(
        "gemma3",
        ("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
        {"image_size": 16, "projector.scale_factor": 2},
    ),
    "qwen2.5vl_merger": Kind(
        "qwen2vl",
        ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>"),
        {"window_size": 8, "n_wa_pattern": 2, "image_min_pixels": 256, "image_max_pixels": 1024, "image_size": 560},
        "silu",
    ),
}


def write_projector(path: Path, name: str) -> Path:
    """Write one of the kind of this name."""
    path.parent.mkdir()
    kind = KINDS[name]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(name)
    sizes = {"patch_size": PATCH, "embedding_length": WIDTH, "feed_forward_length": FEED, "block_count": 2}
    for key, size in {**sizes, "attention.head_count": 2, "projection_dim": OUT, **kind.sizes}.items():
        writer.add_uint32(f"clip.vision.{key}", size)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_bool(f"clip.use_{kind.uses}", True)
    rng = np.random.default_rng(5)
    for tensor, shape in _list_tensors(name).items():
        writer.add_tensor(tensor, rng.normal(scale=0.1, size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _list_tensors(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all its weights."""
    grid = name == "qwen2.5vl_merger"
    shapes: dict[str, Any] = {"v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH), "v.post_ln.weight": (WIDTH,)}
    if grid:
        shapes |= {
            "v.patch_embd.weight.1": (WIDTH, 3, PATCH, PATCH),
            "mm.0.weight": (4 * WIDTH, 4 * WIDTH),
            "mm.0.bias": (4 * WIDTH,),
            "mm.2.weight": (OUT, 4 * WIDTH),
            "mm.2.bias": (OUT,),
        }
    else:
        patches = (KINDS[name].sizes["image_size"] // PATCH) ** 2
        shapes |= {
            "v.patch_embd.bias": (WIDTH,),
            "v.position_embd.weight": (patches, WIDTH),
            "v.post_ln.bias": (WIDTH,),
        }
    if name == "gemma3":
        shapes |= {"mm.soft_emb_norm.weight": (WIDTH,), "mm.input_projection.weight": (WIDTH, OUT)}
    if name == "idefics3":
        shapes["mm.model.fc.weight"] = (OUT, 4 * WIDTH)
    outputs = dict.fromkeys(("ln1", "ln2", "attn_q", "attn_k", "attn_v", "attn_out", "ffn_down"), WIDTH)
    ups = {"ffn_up": FEED, "ffn_gate": FEED} if grid else {"ffn_up": FEED}
    for layer in range(2):
        for part, rows in (outputs | ups).items():
            inputs = FEED if part == "ffn_down" else WIDTH
            norm = part.startswith("ln")
            shapes[f"v.blk.{layer}.{part}.weight"] = (rows,) if norm else (rows, inputs)
            if not norm or not grid:
                shapes[f"v.blk.{layer}.{part}.bias"] = (rows,)
    return shapes
