"""Functions for indexes: documents are cut, counted, merged and searched, in segments that never change."""
