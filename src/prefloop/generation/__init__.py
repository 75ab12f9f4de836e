"""Prompts to completions: `sampler` draws tokens, `decode` writes answers, `generate` makes records of it."""
