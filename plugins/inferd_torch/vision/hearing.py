"""What is of one kind of model that hears: how it prepares a sound, what stands for it in a prompt, and its vectors.

Sounds become log-mel spectrograms by Whisper's feature extractor of transformers, with the numbers of the folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.qwen2_audio import modeling_qwen2_audio
from transformers.models.voxtral.modeling_voxtral import VoxtralForConditionalGeneration
from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

from inferd.plugin.pictures import Outline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from inferd.plugin.session import Float32Array


class Qwen2AudioForConditionalGeneration(modeling_qwen2_audio.Qwen2AudioForConditionalGeneration):  # type: ignore[misc] # it has no types
    """The network of Qwen2-Audio as steps call it: embeddings go in, and logits of chosen rows alone come out.

    Its name is that of transformers' own, which finds by it how weights are called in files.
    """

    _supports_attention_backend = True  # its text model does

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: its weights are called in files as those of transformers' own."""
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool = False,
    ) -> CausalLMOutput:
        """Logits of the rows `logits_to_keep`, or of so many last ones; 0 for all."""
        given = self.model.language_model(
            input_ids=input_ids, inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=use_cache
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=self.lm_head(given.last_hidden_state[:, rows]))


NETWORKS: Final[Mapping[str, Any]] = {
    "qwen2_audio": Qwen2AudioForConditionalGeneration,
    "voxtral": VoxtralForConditionalGeneration,
}
"""Classes of networks, by the `model_type` of a folder's config.json."""


RATES: Final = range(1000, 768_001)  # samples of a second, as sounds may have


class _Kind:
    """What both have."""

    whole: ClassVar = False
    rotates: ClassVar = False

    def __init__(self, config: Any, processor: Any, placeholder: str) -> None:
        self.placeholder = placeholder
        self.token_id = int(config.audio_token_id)
        self.rate = int(processor.sampling_rate)
        self._processor = processor
        self._window = int(processor.n_samples)  # samples that the tower hears at a time, of a short sound with silence
        audio = config.audio_config
        bands, hop, frames = int(audio.num_mel_bins), int(processor.hop_length), 2 * int(audio.max_source_positions)
        if self.rate not in RATES:
            raise ValueError(f"sampling_rate is {self.rate}; it must be from {RATES[0]} to {RATES[-1]}")
        if int(processor.feature_size) != bands:
            raise ValueError(f"feature_size is {processor.feature_size}, and config.json has {bands} num_mel_bins")
        if hop < 1 or self._window != frames * hop:
            raise ValueError(
                f"chunk_length ({processor.chunk_length}) has {self._window} samples at {self.rate} a second, and"
                f" config.json has {frames // 2} max_source_positions, of two hop_lengths ({hop}) each"
            )


class Qwen2Audio(_Kind):
    """Qwen2-Audio: one window, of whose vectors there are as many as the sound is long (arXiv:2407.10759)."""

    @classmethod
    def open(cls, folder: Path, config: Any) -> Self:
        """Of a folder; raises whatever its files cause."""
        return cls(config, WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True), "<|AUDIO|>")

    def hear(self, samples: int) -> Outline:
        """See `SoundReader`."""
        if samples > self._window:
            raise ValueError(
                f"lasts {samples / self.rate:.1f} s, and this model hears {self._window / self.rate:g} s at most: send"
                " parts of it"
            )
        frames = -(-samples // self._processor.hop_length)
        tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        if tokens < 1:
            raise ValueError(f"has {samples} samples at {self.rate} a second, which are too few to be heard")
        return Outline(text=self.placeholder * tokens, tokens=tokens, pixels=samples)

    def read(self, sound: Float32Array) -> Mapping[str, Any]:
        """See `SoundReader`."""
        given = self._processor(
            sound, sampling_rate=self.rate, return_attention_mask=True, padding="max_length", return_tensors="np"
        )
        return {"input_features": given["input_features"], "mask": given["attention_mask"]}

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """See `Kind`."""
        tower = network.model.audio_tower
        frames, tokens = tower._get_feat_extract_output_lengths(values["mask"].sum(-1))  # noqa: SLF001 - its own lengths
        places = torch.arange((values["mask"].shape[-1] - 2) // 2 + 1, device=frames.device)
        heard = (places < frames[:, None])[:, None, None, :].expand(-1, 1, len(places), -1)
        states = tower(values["input_features"], attention_mask=heard).last_hidden_state
        return network.model.multi_modal_projector(states)[0, : int(tokens[0])]  # type: ignore[no-any-return]


class Voxtral(_Kind):
    """Voxtral: as many windows as the sound fills, the last one with silence (arXiv:2507.13264)."""

    def __init__(self, config: Any, processor: Any, placeholder: str) -> None:
        super().__init__(config, processor, placeholder)
        audio = config.audio_config
        together = int(audio.intermediate_size) // int(audio.hidden_size)  # that become one vector
        self._tokens = int(audio.max_source_positions) // together  # of a window

    @classmethod
    def open(cls, folder: Path, config: Any) -> Self:
        """Of a folder; raises whatever its files cause."""
        return cls(config, WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True), "[AUDIO]")

    def hear(self, samples: int) -> Outline:
        """See `SoundReader`."""
        tokens = -(-samples // self._window) * self._tokens
        return Outline(text=self.placeholder * tokens, tokens=tokens, pixels=samples)

    def read(self, sound: Float32Array) -> Mapping[str, Any]:
        """See `SoundReader`."""
        given = self._processor(
            sound,
            sampling_rate=self.rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=self._window,
            return_tensors="np",
        )["input_features"]
        windows = given.shape[-1] * self._processor.hop_length // self._window
        return {"input_features": given.reshape(given.shape[1], windows, -1).transpose(1, 0, 2)}

    def vectors(self, network: Any, values: Mapping[str, Tensor]) -> Tensor:
        """See `Kind`; a window at a time, which hear nothing of each other."""
        features = values["input_features"]
        return torch.cat([network.get_audio_features(each[None]).pooler_output for each in features])


HEARING: Final[Mapping[str, type[Qwen2Audio | Voxtral]]] = {"qwen2_audio": Qwen2Audio, "voxtral": Voxtral}
"""By the `model_type` of a folder's config.json."""
