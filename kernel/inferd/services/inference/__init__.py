"""The Open Inference Protocol, `inference.GRPCInferenceService`: the same front in the words that others speak."""
