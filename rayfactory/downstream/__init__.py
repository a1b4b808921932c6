"""What a corpus is for: measuring it by tasks that use it."""
