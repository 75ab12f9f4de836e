"""Models and what surrounds them: loading, chat template, lineage, group forward, reference store."""
