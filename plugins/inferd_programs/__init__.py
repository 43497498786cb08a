"""Programs that models have written, run with tests."""
