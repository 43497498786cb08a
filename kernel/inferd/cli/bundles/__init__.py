"""Bundles: a model as one signed file, for where there is no network."""
