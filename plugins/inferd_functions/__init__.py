"""Functions for texts: cleaning, splitting, chunking, finding duplicates and languages, converting."""
