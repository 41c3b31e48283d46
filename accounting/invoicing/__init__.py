"""Invoices: from charged runs to a numbered document, its credit notes, its disputes, and what is owed."""
