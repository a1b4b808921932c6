"""rayfactory grows large corpora of diverse, executable SQL for the databases that you point it at."""

__version__ = "0.1.0"
