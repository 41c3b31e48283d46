"""Alembic without an ini file: `python -m gateway.migrations upgrade|check|revision -m TEXT`."""
