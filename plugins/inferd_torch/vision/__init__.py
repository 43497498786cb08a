"""Models of pictures and texts: what their towers see of a picture, and where its vectors stand in a step."""
