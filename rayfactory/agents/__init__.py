"""The six agents of SQL-Factory, each with a rule that needs no language model."""
