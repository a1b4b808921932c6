"""The queries of a finished run in the form that another tool reads (`task=export`)."""
