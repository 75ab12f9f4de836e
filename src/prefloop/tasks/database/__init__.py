"""Text-to-SQL tasks over the user's own databases: made from a schema, or of a published question set."""
