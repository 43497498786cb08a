"""What this plugin offers. Importing this module loads no framework."""

from collections.abc import Iterable

from inferd.plugin import DRAFT_SETTING, NVIDIA, Access, BackendSpec, Setting, hookimpl
from inferd.plugin.ranks import MOST_RANKS

GGUF_ARCHITECTURES = (  # that transformers 5 reads and whose attention can be ours; of folders it is what it knows
    *("llama", "mistral", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "phi3", "gpt2", "starcoder2", "nemotron"),
    *("gemma3", "gemma4", "deci", "minimax-m2"),
)

TENSOR_TYPES = ("silero_vad",)
"""Folders of tensors to tensors, by the `model_type` of their config.json."""

SEEING_TYPES = ("idefics3", "smolvlm", "qwen2_5_vl", "gemma3")
"""Folders whose pictures are seen, by the `model_type` of their config.json."""

HEARING_TYPES = ("qwen2_audio", "voxtral")
"""Folders whose sounds are heard, likewise."""

CLASSIFIER_MARK = "classifier.json"
"""What makes a folder one of a classifier of texts."""

SPEC = BackendSpec(
    name="torch",
    loader="inferd_torch.backend:TorchBackend",
    formats=("hf", "gguf", "classifier"),
    description="Hugging Face folders (safetensors) and GGUF files through transformers, on CUDA or the processor",
    supported={
        "GGUF architectures": GGUF_ARCHITECTURES,
        "networks of tensors, in folders": TENSOR_TYPES,
        "models that see pictures, in folders": SEEING_TYPES,
        "models that hear sounds, in folders": HEARING_TYPES,
        "classifiers that it trains, in folders": ("of texts, of encoders and of models that write text",),
    },
    settings=(
        Setting(
            name="context_tokens",
            kind="int",
            minimum=1,
            description="most tokens of one sequence; default: the model's context, at most 8192",
        ),
        Setting(
            name="kv_tokens",
            kind="int",
            minimum=1,
            description="tokens whose keys and values fit into the KV pool, over all sequences; default: 512 for each"
            " sequence (on CUDA 2048) or one whole context, at most a quarter of what the weights leave of the device"
            " and 1 GiB (on CUDA four fifths)",
        ),
        Setting(
            name="max_sequences", kind="int", default=64, minimum=1, maximum=4096, description="sequences in a step"
        ),
        Setting(
            name="max_step_tokens",
            kind="int",
            minimum=1,
            maximum=65536,
            description="tokens in a step; default: 512 (on CUDA 2048)",
        ),
        Setting(
            name="block_tokens", kind="int", default=16, minimum=1, maximum=4096, description="tokens in a KV block"
        ),
        Setting(
            name="dtype",
            kind="str",
            default="auto",
            choices=("auto", "float32", "bfloat16", "float16"),
            description="numbers that the model computes with; auto: the model's own on CUDA, float32 on the processor",
        ),
        Setting(
            name="weights",
            kind="str",
            default="stored",
            choices=("stored", "fp8"),
            description="fp8: weights of the linear modules of layers are rounded to 8 bits when they are read, with a"
            " scale for each output; a GPU that multiplies such numbers has the rows rounded, too. For folders of plain"
            " weights",
        ),
        Setting(
            name="cuda_graphs",
            kind="bool",
            default=True,
            description="record decode steps, and small ones with prompts, as CUDA graphs while loading; without effect"
            " on the processor",
        ),
        Setting(
            name="ahead",
            kind="bool",
            description="begin a step before the tokens of the last one have come to the host, so that the device does"
            " not wait for it; default: on CUDA, over one device",
        ),
        Setting(
            name="ranks",
            kind="int",
            minimum=1,
            maximum=MOST_RANKS,
            description="processes that compute the model together, each with a part of its heads and weights; default:"
            " one for each of its devices. On one processor it is there to try that, and no faster",
        ),
        Setting(
            name="rank_silence_s",
            kind="float",
            default=15.0,
            minimum=0.5,
            maximum=3600,
            description="seconds without any part of a step after which a rank is lost, and the instance with it",
        ),
        Setting(
            name="fused",
            kind="bool",
            default=True,
            description="compute what lies between the products of a layer together, where the architecture is known;"
            " without effect on the processor",
        ),
        Setting(
            name="picture_tokens",
            kind="int",
            default=4096,
            minimum=1,
            maximum=1 << 20,
            description="most tokens of one picture or sound, of a model that sees or hears: larger ones are refused",
        ),
        Setting(
            name="picture_cache_tokens",
            kind="int",
            default=16384,
            minimum=0,
            maximum=1 << 24,
            description="tokens of pictures whose vectors are kept, so that a picture that comes again is not computed"
            " again",
        ),
        Setting(
            name="max_batch",
            kind="int",
            default=64,
            minimum=1,
            maximum=4096,
            description="of a classifier: most texts of several requests that are computed as one",
        ),
        Setting(
            name="longer",
            kind="str",
            default="cut",
            choices=("cut", "refuse"),
            description="of a classifier: what becomes of a text with more tokens than it was trained with: its end is"
            " not read, and the output `cut` says how many tokens that are; or it is refused",
        ),
        Setting(
            name="top",
            kind="int",
            minimum=1,
            maximum=1000,
            description="of a classifier: how many labels are told of each text, likeliest first; default: 20, or all"
            " where there are fewer",
        ),
        DRAFT_SETTING,
        Setting(
            name="pre_tokenizer",
            kind="str",
            description="how a byte-level vocabulary splits text, as `tokenizer.ggml.pre` names it: for GGUF files that"
            " do not say it, or say it wrongly; default: as the file says",
        ),
    ),
    rank=200,
    accelerated={"hf": 50},  # on the processor the native engine reads folders, too, and is several times faster
    extra="torch",
    access=Access(devices=NVIDIA.devices, compilers=True),  # triton compiles what a GPU computes when it is first used
    spans=True,
    trains=("classify", "lora", "full", "embed", "distil"),
    trains_together=("lora", "full"),
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """One backend: `torch`."""
    return (SPEC,)
