"""Judgements to preference data: pairs by a named strategy, drops by named rules, export, and import."""
