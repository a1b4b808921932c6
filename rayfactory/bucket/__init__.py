"""Pools in object storage: S3, Google Cloud Storage, Azure, and what speaks their protocols."""
