"""Which databases a run works on, what is in them, and a bounded way to run one statement."""
