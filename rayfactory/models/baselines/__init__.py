"""Methods of others, to compare with: each writes queries from a schema as its publication says, and knows no pool."""
