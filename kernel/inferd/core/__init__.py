"""The pure core: values, lifecycles and the kernel machine. No I/O, no clock, no randomness."""
