"""Folders of tiny random networks that hear, and what transformers answers about some sounds with its own code."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_networks import COMMON, write_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.models.qwen2_audio import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
from transformers.models.voxtral import VoxtralConfig, VoxtralForConditionalGeneration

SEED = 59
RATE = 16_000
WINDOW_S = 2  # that the tower hears
FRAMES = WINDOW_S * 100
TEXT = {**COMMON, "num_hidden_layers": 2}
AUDIO_ID = 258  # the first token behind those of `write_tokenizer`
PLACEHOLDERS = {"qwen2_audio": "<|AUDIO|>", "voxtral": "[AUDIO]"}
TOKENS = {
    "qwen2_audio": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|im_start|>", "<|im_end|>"],
    "voxtral": ["[AUDIO]", "[BEGIN_AUDIO]", "[INST]", "[/INST]"],
}
TEMPLATES = {
    "qwen2_audio": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
        "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'audio' %}"
        "Audio: <|audio_bos|><|AUDIO|><|audio_eos|>\n{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "voxtral": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}[/INST]{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    ),
}
CLASSES: dict[str, Any] = {
    "qwen2_audio": Qwen2AudioForConditionalGeneration,
    "voxtral": VoxtralForConditionalGeneration,
}


def make_config(kind: str) -> Any:
    if kind == "qwen2_audio":
        tower = {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "num_mel_bins": 20,
            "max_source_positions": FRAMES // 2,
        }
        text = {**TEXT, "model_type": "qwen2"}
        return Qwen2AudioConfig(
            audio_config=tower, text_config=text, audio_token_id=AUDIO_ID, tie_word_embeddings=False
        )
    tower = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_bins": 20,
        "max_source_positions": FRAMES // 2,
    }
    text = {**TEXT, "model_type": "llama"}
    return VoxtralConfig(audio_config=tower, text_config=text, audio_token_id=AUDIO_ID, tie_word_embeddings=False)


def make_extractor() -> Any:
    return WhisperFeatureExtractor(feature_size=20, chunk_length=WINDOW_S, sampling_rate=RATE)


def write_folder(kind: str, folder: Path) -> Any:
    """Save a network with its tokenizer and what prepares its sounds; the network."""
    torch.manual_seed(SEED)
    network = CLASSES[kind]._from_config(make_config(kind), dtype=torch.float32, attn_implementation="eager").eval()
    for name, weight in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    network.save_pretrained(folder)
    make_extractor().save_pretrained(folder)
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(TOKENS[kind])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATES[kind]}))
    return network


def make_sound(seconds: float, *, seed: int = 0, rate: int = RATE) -> bytes:
    """A WAV file of noise, 16 bits."""
    samples = np.random.default_rng(seed).integers(-8000, 8000, int(seconds * rate), np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(samples.tobytes())
    return file.getvalue()


def samples_of(file: bytes) -> Any:
    with wave.open(io.BytesIO(file)) as read:
        return np.frombuffer(read.readframes(read.getnframes()), np.int16).astype(np.float32) / np.float32(1 << 15)


def answer(kind: str, network: Any, folder: Path, messages: list[dict[str, Any]], *, count: int) -> list[int]:
    """The greedy tokens of transformers, by its own processors where those need nothing that is not installed."""
    named = {"bos_token": "<start>", "eos_token": "<end>", "chat_template": TEMPLATES[kind]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)
    sounds = [samples_of(part["audio"]) for message in messages for part in message["content"] if "audio" in part]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    given: dict[str, Any] = {}
    if kind == "qwen2_audio":
        processor = Qwen2AudioProcessor(make_extractor(), tokenizer)
        if sounds:
            given = dict(processor(text=[prompt], audio=sounds, sampling_rate=RATE, return_tensors="pt"))
            given.pop("token_type_ids", None)
    elif sounds:  # as VoxtralProcessor, whose tokenizer is of a package of its own
        features = []
        for sound in sounds:
            one = make_extractor()(
                sound, sampling_rate=RATE, padding=True, truncation=False, pad_to_multiple_of=WINDOW_S * RATE,
                max_source_positions=FRAMES, return_tensors="pt",
            )["input_features"]  # fmt: skip
            features.append(one.reshape(one.shape[1], -1, FRAMES).transpose(0, 1))
        given["input_features"] = torch.cat(features)
        for one in features:
            prompt = prompt.replace("[AUDIO]", "[AUDIO_]" * (len(one) * FRAMES // 8), 1)
        prompt = prompt.replace("[AUDIO_]", "[AUDIO]")
    if "input_ids" not in given:
        given |= dict(tokenizer(prompt, return_tensors="pt", add_special_tokens=False))
        given.pop("token_type_ids", None)
    with torch.no_grad():
        made = network.generate(**given, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return made[0, given["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]
