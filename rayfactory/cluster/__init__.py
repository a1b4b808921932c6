"""Everything that touches Ray: session, actors and the judging dataflow."""
