"""HTTP under /api/v2: wire models, problems, and one router for each noun."""
