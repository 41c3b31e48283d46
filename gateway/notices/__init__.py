"""News that go out by themselves: an outbox, and who carries from it.

tables.py     what is kept
outbox.py     put, claim, delivered or not
webhook.py    signed, to the operator's receiver
deliver.py    the tick
"""
