"""inferd: a model kernel. See ARCHITECTURE.md for the life of a task."""

__version__ = "0.3.0"
