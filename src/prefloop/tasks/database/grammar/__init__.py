"""The starter grammar: questions about any database, drawn from what its columns hold."""
