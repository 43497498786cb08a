"""Frames between the kernel and its workers."""
