"""What a kernel tells of itself to those who watch it: figures, spans and lines of its log; of nothing the content."""
