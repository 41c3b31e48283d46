"""What happened, so that others can check it without trusting us. In reading order:

canonical.py merkle.py note.py   bytes that are signed: RFC 8785, RFC 6962, C2SP signed notes
personal.py leaves.py            what a leaf says of an entry, and what it hides of a person
outbox.py log.py                 the only files that know the database: the queue, the tree, checkpoints
witness.py                       what a centre checks before it cosigns
terms.py billed.py confirmations.py  parts of a bundle: prices and contracts, invoices, what centres signed
bundle.py                        everything that a verifier needs about a period, in one stream of lines
"""
