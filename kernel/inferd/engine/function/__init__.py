"""The worker's side of functions: a package is imported beside the worker, and each call is a fork of that process."""
