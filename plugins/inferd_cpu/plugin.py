"""What this plugin offers. Importing this module loads no framework."""

from collections.abc import Iterable

from inferd.plugin import DRAFT_SETTING, BackendSpec, Setting, hookimpl
from inferd_cpu.supported import describe

SPEC = BackendSpec(
    name="cpu",
    loader="inferd_cpu.backend:CpuBackend",
    probe="inferd_cpu.probing:probe",
    formats=("gguf", "hf"),
    supported=describe(),
    description="GGUF files and Hugging Face folders on the processor: llama, qwen, gemma, phi, gpt-oss and others",
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
            " sequence or one whole context, at most 1 GiB and a quarter of what the weights leave of the device",
        ),
        Setting(
            name="max_sequences", kind="int", default=64, minimum=1, maximum=4096, description="sequences in a step"
        ),
        Setting(
            name="max_step_tokens", kind="int", default=512, minimum=1, maximum=65536, description="tokens in a step"
        ),
        Setting(
            name="block_tokens",
            kind="int",
            default=16,
            minimum=1,
            maximum=4096,
            description="tokens in a KV block; where layers keep a state of a sequence at least 64, unless 'kv_tokens'"
            " is set, too",
        ),
        Setting(
            name="compute",
            kind="str",
            default="auto",
            choices=("auto", "native", "exact"),
            description="native: the compiled library, products in int8 or bf16; exact: fp32 with numpy; auto:"
            " native where the library and the model permit it",
        ),
        Setting(
            name="quantization",
            kind="str",
            default="auto",
            choices=("auto", "8bit", "4bit"),
            description="weights of native products; auto: 4 bits of Q4_0, Q4_1 and Q4_K, 8 of all others; 4bit: of"
            " what has not 4 in the file queries, keys, values, gate and up get 4 bits, the rest 8",
        ),
        Setting(
            name="wide_layers",
            kind="str",
            description="layers that 'quantization=4bit' leaves as wide as they are: numbers from 0, ranges, and parts"
            " of the depth, as 0-2,29 or 0/8,7/8 (the first and the last of eight)",
        ),
        Setting(
            name="isa",
            kind="str",
            default="auto",
            choices=("auto", "plain", "avx2", "avx512", "amx", "neon"),
            description="instruction set of native products; auto: the best of this processor",
        ),
        Setting(
            name="threads",
            kind="int",
            minimum=1,
            maximum=256,
            description="threads of native products; default: the cores that no lease held when it was loaded",
        ),
        Setting(
            name="kv_format",
            kind="str",
            default="auto",
            choices=("auto", "i8", "bf16", "f32"),
            description="numbers of the native KV pool; i8: 8 bits and a scale for each token and head; auto: i8 where"
            " the processor multiplies such numbers in few steps (AVX2, AVX-512, AMX), else bf16",
        ),
        Setting(
            name="expert_offload",
            kind="bool",
            default=False,
            description="keep the experts of a mixture, packed, in a file in the worker's scratch, from which the"
            " operating system pages them: for models that are larger than memory; native products only",
        ),
        Setting(
            name="adapter",
            kind="str",
            names_file=True,
            description="path of a LoRA adapter, absolute for the kernel: a GGUF file or a folder of the peft package:"
            " it is added to the weights as they are loaded; what it changes gets 8 bits unless 'quantization' says"
            " otherwise",
        ),
        Setting(
            name="adapter_scale",
            kind="float",
            default=1.0,
            minimum=0,
            maximum=1000,
            description="what the adapter's changes are multiplied with",
        ),
        Setting(
            name="projector",
            kind="str",
            names_file=True,
            description="path of what a GGUF model sees with, absolute for the kernel: its projector (mmproj) as"
            " llama.cpp has it, of SmolVLM, Gemma 3 or Qwen2.5-VL",
        ),
        Setting(
            name="picture_tokens",
            kind="int",
            default=4096,
            minimum=1,
            maximum=1 << 20,
            description="most tokens of one picture, of a model that sees: larger ones are refused",
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
        DRAFT_SETTING,
        Setting(
            name="pre_tokenizer",
            kind="str",
            description="how a byte-level vocabulary splits text, as `tokenizer.ggml.pre` names it: for GGUF files that"
            " do not say it, or say it wrongly; default: as the file says",
        ),
    ),
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """One backend: `cpu`."""
    return (SPEC,)
