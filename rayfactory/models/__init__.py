"""Who writes SQL: the schema grammar and the variation author."""
