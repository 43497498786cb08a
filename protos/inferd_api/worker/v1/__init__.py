"""Frames between the kernel and its workers, package `inferd.worker.v1`."""
