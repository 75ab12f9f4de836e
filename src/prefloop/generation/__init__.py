"""Prompts to completions: each prompt computed once for its K answers."""
