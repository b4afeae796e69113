"""Alembic's environment and the revisions of promptreg's schema."""
