"""Settings of language models. Importing this module loads no framework."""

from inferd.plugin import Setting

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

SETTINGS = (
    Setting(
        name="context_tokens",
        kind="int",
        minimum=1,
        description="of language models: most tokens of one sequence; default: the model's context, at most 8192",
    ),
    Setting(
        name="kv_tokens",
        kind="int",
        minimum=1,
        description="of language models: tokens whose keys and values fit into the KV pool, over all sequences; they"
        " take as much again where attention reads them; default: 512 for each sequence or one whole context, at most a"
        " quarter of what the weights leave of the device and 1 GiB",
    ),
    Setting(
        name="max_sequences",
        kind="int",
        default=32,
        minimum=1,
        maximum=1024,
        description="of language models: sequences in a step",
    ),
    Setting(
        name="max_step_tokens",
        kind="int",
        default=512,
        minimum=1,
        maximum=65536,
        description="of language models: tokens in a step",
    ),
    Setting(
        name="block_tokens",
        kind="int",
        default=16,
        minimum=1,
        maximum=4096,
        description="of language models: tokens in a KV block",
    ),
    Setting(
        name="quantization",
        kind="str",
        default="auto",
        choices=("auto", "8bit", "4bit"),
        description="of language models: bits of a weight; auto: 4 where the file's own blocks are taken as they are"
        " (Q4_0), else 8",
    ),
    Setting(
        name="compute",
        kind="str",
        default="auto",
        choices=("auto", "exact"),
        description="of language models: auto rounds weights (see quantization) and what is multiplied with them to 8"
        " bits; exact rounds neither, and takes 4 bytes for each weight",
    ),
    Setting(
        name="pre_tokenizer",
        kind="str",
        description="of language models: how a byte-level vocabulary splits text, as `tokenizer.ggml.pre` names it: for"
        " GGUF files that do not say it, or say it wrongly; default: as the file says",
    ),
)
