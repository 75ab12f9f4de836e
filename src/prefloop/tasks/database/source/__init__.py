"""What a database says of itself and holds: schema, profiles of columns, guessed keys, the DDL of prompts."""
