"""Runs every missing revision in one transaction, on the connection that `migrate` passes in."""

from alembic import context

from atelier_registry.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
