"""Tasks that generate tokens or embed a text: sequences, KV blocks, steps, sampling, grammars."""
