"""Durable state: what outlives the kernel. One interface, and what stands behind it."""
