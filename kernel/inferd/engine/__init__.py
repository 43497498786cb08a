"""The token engine: everything between a task's input and a session's forward pass, and back to text."""
