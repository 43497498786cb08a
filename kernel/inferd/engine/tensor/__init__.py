"""The tensor engine: everything between requests of many clients and a session that turns tensors into tensors."""
