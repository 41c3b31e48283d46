"""Money that came in: bank files read, kept once, and allocated to documents."""
