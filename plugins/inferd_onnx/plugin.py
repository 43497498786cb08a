"""What this plugin offers. Importing this module loads no framework."""

from collections.abc import Iterable

from inferd.plugin import BATCH_SETTINGS, NVIDIA, BackendSpec, Setting, hookimpl
from inferd_onnx.decoder.settings import ARCHITECTURES, SETTINGS

SPEC = BackendSpec(
    name="onnx",
    loader="inferd_onnx.backend:OnnxBackend",
    formats=("onnx", "ort", "gguf", "hf"),
    description="ONNX models, with external data or as .ort files, through ONNX Runtime on the processor or on CUDA;"
    " on the processor also GGUF files and Hugging Face folders of the Llama family",
    supported={
        "GGUF and Hugging Face architectures": ARCHITECTURES,
        "ONNX graphs": ("of every operator that the installed ONNX Runtime computes",),
        "ONNX folders of an encoder and a decoder": ("whisper",),
        "ONNX inputs and outputs": ("tensors and optional tensors of every type that it has, strings included",),
    },
    settings=(
        Setting(
            name="provider",
            kind="str",
            default="auto",
            choices=("auto", "cpu", "openvino", "cuda", "tensorrt"),
            description="what computes; auto: cpu on the processor, cuda on CUDA. Another one is never taken instead",
        ),
        Setting(
            name="serves",
            kind="str",
            default="auto",
            choices=("auto", "embeddings", "tensors"),
            description="what tasks ask of it; auto: embeddings or scores of texts of a folder with a tokenizer.json,"
            " whose graph takes their tokens and gives hidden states, vectors or a classifier's logits; else tensors",
        ),
        Setting(
            name="max_batch",
            kind="int",
            minimum=1,
            maximum=65536,
            description="most requests that are computed as one; default: 64 where the first size of every input and"
            " output is free, named like a batch or not at all, and two rows give the same together as alone, else 1",
        ),
        *BATCH_SETTINGS,
        Setting(
            name="states",
            kind="str",
            default="",
            description="outputs that a sequence gets as inputs at its next request: INPUT=OUTPUT, or"
            " INPUT=OUTPUT:2x1x128 with the shape of the zeros at its start, whose free sizes are 1 otherwise; several"
            " with commas between them",
        ),
        Setting(
            name="optional_inputs",
            kind="bool",
            default=True,
            description="whether clients may give inputs for which the model has values of its own",
        ),
        Setting(
            name="threads", kind="int", default=1, minimum=1, maximum=256, description="calls that are computed at once"
        ),
        Setting(
            name="intra_threads",
            kind="int",
            minimum=1,
            maximum=1024,
            description="threads that share one operator; default: the cores that no lease held when it was loaded,"
            " shared by the calls at once",
        ),
        Setting(
            name="inter_threads",
            kind="int",
            default=1,
            minimum=1,
            maximum=1024,
            description="operators of one call that are computed at once",
        ),
        Setting(
            name="spinning",
            kind="bool",
            default=False,
            description="whether idle threads spin for a while: quicker alone, at the cost of others on these cores",
        ),
        Setting(
            name="optimization",
            kind="str",
            default="all",
            choices=("none", "basic", "extended", "all"),
            description="how far the graph is rewritten while loading",
        ),
        Setting(
            name="arena",
            kind="bool",
            default=True,
            description="whether memory of one call is kept for the next",
        ),
        Setting(
            name="memory_pattern",
            kind="bool",
            default=True,
            description="whether the memory of a call with shapes that were seen before is taken at once",
        ),
        Setting(
            name="workspace_mib",
            kind="int",
            minimum=1,
            maximum=1 << 20,
            description="memory for what is computed, beside weights and libraries, in MiB; default: 64, and as much as"
            " a fourth of the weights. On CUDA no more is taken",
        ),
        Setting(
            name="profile",
            kind="str",
            names_file=True,
            written=True,
            default="",
            description="absolute path of a folder where the time of each operator is written as JSON, complete when"
            " the model is unloaded",
        ),
        *SETTINGS,
    ),
    rank=300,  # of GGUF files and folders behind the backends that compute all architectures
    extra="onnx",
    access=NVIDIA,
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """One backend: `onnx`."""
    return (SPEC,)
