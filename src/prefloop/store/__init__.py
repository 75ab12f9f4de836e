"""The run folder: records in Parquet, an append-only journal for work in progress, and the manifest."""
