"""Folders of tiny random networks that see pictures, and what transformers answers about some with its own code."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_networks import COMMON, write_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3 import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3 import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SEED = 53
TEXT = {**COMMON, "num_hidden_layers": 2}
SEEING = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TILE = 16

IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'] is string %}"
    "{{': ' + message['content']}}{% else %}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}"
    "{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else"
    " message['role'] %}{{ '<start_of_turn>' + role + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] | trim }}{% else %}{% for item in message['content'] %}{% if item['type'] == 'image' %}"
    "{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}"
    "{% endif %}"
)
TOKENS = {
    "idefics3": [
        *("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<|im_start|>"),
        *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    ],
    "qwen2_5_vl": [
        *("<|image_pad|>", "<|vision_start|>", "<|vision_end|>"),
        *("<|im_start|>", "<|im_end|>", "<|video_pad|>"),
    ],
    "gemma3": ["<image_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"],
}
TEMPLATES = {"idefics3": IDEFICS_TEMPLATE, "qwen2_5_vl": QWEN_TEMPLATE, "gemma3": GEMMA_TEMPLATE}
IMAGE_ID = 258  # the first token behind those of `write_tokenizer`


def make_config(kind: str) -> Any:
    vision = {**SEEING, "image_size": TILE, "patch_size": 4}
    match kind:
        case "idefics3":
            text = {**TEXT, "model_type": "llama"}
            return Idefics3Config(
                text_config=text,
                vision_config=vision,
                scale_factor=2,
                image_token_id=IMAGE_ID,
                tie_word_embeddings=False,
            )
        case "qwen2_5_vl":
            sizes = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
            rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
            return Qwen2_5_VLConfig(
                text_config={**TEXT, "rope_parameters": rope},
                vision_config={**sizes, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]},
                image_token_id=IMAGE_ID,
                vision_start_token_id=IMAGE_ID + 1,
                vision_end_token_id=IMAGE_ID + 2,
                video_token_id=IMAGE_ID + 5,
            )
        case _:
            layers = ["sliding_attention", "full_attention"]
            text = {**TEXT, "head_dim": 16, "sliding_window": 21, "layer_types": layers, "tie_word_embeddings": False}
            return Gemma3Config(
                text_config=text,
                vision_config=vision,
                mm_tokens_per_image=4,
                image_token_id=IMAGE_ID,
                boi_token_id=IMAGE_ID + 1,
                eoi_token_id=IMAGE_ID + 2,
                tie_word_embeddings=False,
            )


CLASSES: dict[str, Any] = {
    "idefics3": Idefics3ForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}


def make_processor(kind: str) -> Any:
    match kind:
        case "idefics3":
            return Idefics3ImageProcessorPil(size={"longest_edge": 3 * TILE}, max_image_size={"longest_edge": TILE})
        case "qwen2_5_vl":
            return Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 256, "longest_edge": 2048})
        case _:
            return Gemma3ImageProcessorPil(size={"height": TILE, "width": TILE})


def write_folder(kind: str, folder: Path) -> Any:
    """Save a network with its tokenizer and what prepares its pictures; the network."""
    torch.manual_seed(SEED)
    network = CLASSES[kind]._from_config(make_config(kind), dtype=torch.float32, attn_implementation="eager").eval()
    for name, weight in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    network.save_pretrained(folder)
    make_processor(kind).save_pretrained(folder)
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(TOKENS[kind])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATES[kind]}))
    return network


def make_picture(wide: int, high: int, *, seed: int = 0, form: str = "PNG") -> bytes:
    """The file of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)
    return save_picture(Image.fromarray(pixels), form)


def save_picture(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def answer(kind: str, network: Any, folder: Path, messages: list[dict[str, Any]], *, count: int) -> list[int]:
    """The greedy tokens of transformers, by its own processors where those need nothing that is not installed."""
    named = {"bos_token": "<start>", "eos_token": "<end>", "chat_template": TEMPLATES[kind]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)
    files = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
    pictures = [Image.open(BytesIO(file)).convert("RGB") for file in files]
    bare = [
        message | {"content": [part if part["type"] == "text" else {"type": "image"} for part in message["content"]]}
        for message in messages
    ]
    text = tokenizer.apply_chat_template(bare, tokenize=False, add_generation_prompt=True)
    inputs = _process(kind, tokenizer, text, pictures)
    given = network.generate(**inputs, do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=256)
    return given[0, inputs["input_ids"].shape[1] :].tolist()


def _process(kind: str, tokenizer: Any, text: str, pictures: list[Any]) -> dict[str, Any]:
    seeing = make_processor(kind)
    if kind == "idefics3":
        processor = Idefics3Processor(seeing, tokenizer, image_seq_len=4)
        return dict(processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=False))
    if kind == "gemma3":
        for number, name in enumerate(("image", "boi", "eoi")):
            setattr(tokenizer, f"{name}_token", TOKENS[kind][number])
            setattr(tokenizer, f"{name}_token_id", IMAGE_ID + number)
        processor = Gemma3Processor(seeing, tokenizer, image_seq_length=4)
        return dict(processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=False))
    if not pictures:
        return dict(tokenizer(text, return_tensors="pt", add_special_tokens=False))
    seen = seeing(images=pictures, return_tensors="pt")  # its processor wants one of videos, which needs torchvision
    for grid in seen["image_grid_thw"]:
        text = text.replace("<|image_pad|>", "\0" * (int(grid.prod()) // 4), 1)
    ids = tokenizer(text.replace("\0", "<|image_pad|>"), return_tensors="pt", add_special_tokens=False)
    kinds = (ids["input_ids"] == IMAGE_ID).int()
    return {"input_ids": ids["input_ids"], "mm_token_type_ids": kinds, **seen}
