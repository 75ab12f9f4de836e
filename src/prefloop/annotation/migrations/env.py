"""Alembic's entry: migrations run on the connection that `prefloop.annotation.database.migrate` gives."""

from alembic import context

from prefloop.annotation.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
