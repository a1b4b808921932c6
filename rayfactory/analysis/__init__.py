"""What a corpus of queries is like, in figures and on a page: of a run, and of files from anywhere beside it."""
