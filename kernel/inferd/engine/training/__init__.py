"""Trainings: the cadence of steps, judgements and checkpoints around a backend's session, and what is told of them."""
