"""OpenVINO GenAI: continuous batching, without its prefix cache."""

import numpy as np
import openvino as ov
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig
from runner import MODEL, run

settings = SchedulerConfig()
settings.cache_size = 4  # GiB
settings.max_num_seqs = 64
settings.max_num_batched_tokens = 1024
settings.enable_prefix_caching = False
pipe = ContinuousBatchingPipeline(str(MODEL), settings, "CPU", {}, {})


def generate(prompts: list[list[int]], count: int) -> int:
    """See `runner.Generate`."""
    config = GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = count
    config.ignore_eos = True
    config.do_sample = False
    handles = [
        pipe.add_request(number, ov.Tensor(np.array([prompt], dtype=np.int64)), config)
        for number, prompt in enumerate(prompts)
    ]
    while pipe.has_non_finished_requests():
        pipe.step()
    return sum(len(handle.read_all()[0].generated_ids) for handle in handles)


run(generate)
