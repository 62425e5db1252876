"""How the tables came to be: Alembic's revisions, run at the start of the service."""
