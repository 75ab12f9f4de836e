"""Completions to judgements. Each judge is one file and states its formula and its source."""
