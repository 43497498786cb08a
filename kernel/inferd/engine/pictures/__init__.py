"""Pictures in conversations: from files to what a model's vectors are computed from, and their places in a prompt."""
