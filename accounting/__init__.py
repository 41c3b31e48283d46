"""The money, in reading order: raw record -> usage -> meter -> tariff -> price -> ledger.

money.py usage.py          what is counted: integer micro-units, integer resource-seconds
sources/                   one file per raw format
meter.py tariff.py price.py  what of it is billable, at what price, for how much
ledger.py                  balanced entries
tables.py store.py         the only files that know the database
"""
