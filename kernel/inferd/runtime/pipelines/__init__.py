"""Runs of pipelines: what is kept of each, and how its steps are carried out by ordinary tasks."""
