"""Run by Alembic: every revision in one transaction, on the connection that `schema.migrate` gives."""

from alembic import context

from atelier_registry.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
