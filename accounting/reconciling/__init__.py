"""A centre's statement against our books: read, matched, explained, and settled by people."""
