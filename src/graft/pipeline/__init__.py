"""One run from typed values to resulting weights; the only room that orchestrates."""
