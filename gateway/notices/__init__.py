"""News that go out by themselves: an outbox, and who carries from it.

tables.py     what is kept
outbox.py     put, claim, delivered or not
webhook.py    signed, to the operator's receiver
addresses.py mail.py   to a project's owners
deliver.py    the tick
"""
