"""Recipes at work: files and texts become inputs of a model of tensors, and its outputs what clients asked for."""
