"""The process that stands for a kernel on another host: starts workers there, and carries their frames."""
