"""Texts to tokens and back: tokenizers, chat templates, control tokens, stop strings."""
