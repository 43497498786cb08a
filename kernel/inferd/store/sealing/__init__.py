"""What is kept, sealed: the cipher, the keys and where they come from, and what is done to what is kept."""
