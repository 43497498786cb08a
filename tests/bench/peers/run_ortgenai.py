"""ONNX Runtime GenAI: one batch of equal prompts."""

import numpy as np
import onnxruntime_genai as og
from runner import MODEL, run

model = og.Model(str(MODEL))


def generate(prompts: list[list[int]], count: int) -> int:
    """See `runner.Generate`."""
    length = len(prompts[0]) + count
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompts, dtype=np.int32))
    done = 0
    while not generator.is_done() and done < count:
        generator.generate_next_token()
        done += 1
    return len(prompts) * done


run(generate)
