"""Load, template, group forward, lineage, reference store."""
