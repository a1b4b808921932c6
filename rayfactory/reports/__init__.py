"""What a person or another program reads of a run, during and after it."""
