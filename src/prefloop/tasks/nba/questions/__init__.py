"""The question grammar: what can be asked of a league, its gold SQL, its plan, and its common mistakes."""
