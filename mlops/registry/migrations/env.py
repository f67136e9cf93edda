"""What alembic runs: migrations over the connection, and in the transaction, of whoever asked."""

from alembic import context

from mlops.registry.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
