"""The kernel-side shell around the core: processes, links, streams, clock. Owns all I/O except gRPC."""
