"""The process of one instance: a model, the token engine, and the link to the kernel."""
