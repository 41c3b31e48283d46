"""The service that people and programs talk to. Start at bootstrap.py; DESIGN is docs/architecture.md."""
