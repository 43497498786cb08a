"""Programs: a `model.py` of a model repository, run in the worker of its model, with what it imports of Triton."""
