"""The arithmetic of federated rounds: updates in whole numbers, compressed, private, put together; heads of texts."""
