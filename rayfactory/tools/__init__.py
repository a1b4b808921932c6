"""The three tools of the Critical Agent: execution, retrieval and statistics."""
