"""vLLM on processors, without its prefix cache."""

from runner import MODEL, run


def main() -> None:
    """Its engine has a process of its own, which imports this file again."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - the import reads what processes have set

    llm = LLM(model=str(MODEL), dtype="bfloat16", max_model_len=8192, max_num_seqs=64, enable_prefix_caching=False)

    def generate(prompts: list[list[int]], count: int) -> int:
        batch = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        return sum(len(one.outputs[0].token_ids) for one in llm.generate(batch, params, use_tqdm=False))

    run(generate)


if __name__ == "__main__":
    main()
